"""The notebooks in order, executed with papermill into an output folder."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from doggos_helpers.errors import DoggosError, SettingsError
from doggos_helpers.serve.service import free_port
from doggos_helpers.settings import LOCAL, Settings, environment, suggestion

REPOSITORY = Path(__file__).resolve().parents[2]


class NotebookError(DoggosError):
    """A notebook failed."""

    exit_code = 1


class BatchSettings(Settings):
    """Settings of the notebooks, and which of them run where.

    An option becomes a parameter of each notebook that declares it. The environment
    is not read here: the notebooks read it themselves, below their parameters.
    """

    out: str = Field("build/tutorial", description="folder for executed notebooks")
    notebooks: str = Field("", description="folder of notebooks; empty: this series")
    params_file: str = Field("", description="YAML file of parameters")
    only: str = Field("", description="numbers of notebooks, such as 03,04")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take options alone, so that `model_fields_set` says what was given."""
        return (init_settings,)

    @property
    def options(self) -> dict[str, Any]:
        """The settings of notebooks that were given as options."""
        given = self.model_fields_set & set(Settings.model_fields)
        return {name: getattr(self, name) for name in sorted(given)}


def find_notebooks(folder: Path, only: str = "") -> list[Path]:
    """Return the numbered notebooks of a folder, in order.

    Args:
        folder: Where they are.
        only: Comma-separated numbers or names; empty for all.

    Raises:
        SettingsError: There are none, or one that `only` names is missing.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise SettingsError(
            "no notebooks NN_name.ipynb here", str(folder), "Give --notebooks FOLDER"
        )
    if not only:
        return found
    chosen: dict[str, Path] = {}
    for name in (part.strip().removesuffix(".ipynb") for part in only.split(",")):
        matches = [p for p in found if name in (p.stem, p.stem[:2], p.stem[1:2])]
        if not matches:
            raise SettingsError(
                "no such notebook",
                f"--only {name}",
                f"Choose from {', '.join(p.stem[:2] for p in found)}",
            )
        chosen[matches[0].name] = matches[0]
    return [chosen[name] for name in sorted(chosen)]


def declared_parameters(notebook: Path) -> set[str]:
    """Return the names in a notebook's cell tagged `parameters`."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def read_parameters(path: str) -> dict[str, Any]:
    """Read a YAML file of parameters; an empty path gives none.

    Raises:
        SettingsError: It can't be read, or isn't a mapping of names to values.
    """
    import yaml

    if not path:
        return {}
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise SettingsError(
            f"can't read the parameters ({problem})", path, "Name a YAML file"
        ) from error
    if not isinstance(content or {}, dict):
        raise SettingsError("not a list of name: value", path, "See notebooks/params")
    return content or {}


def check_parameters(parameters: Mapping[str, Any], declared: set[str]) -> None:
    """Refuse a parameter that no notebook declares: papermill would only warn.

    Raises:
        SettingsError: It names the parameter and what may have been meant.
    """
    for name in parameters:
        if name in declared:
            continue
        if name in Settings.model_fields:
            fix = f"No notebook takes it; set DOGGOS_{name.upper()} in the environment"
        else:
            fix = suggestion(name, declared, "Remove it")
        raise SettingsError("no notebook declares this parameter", name, fix)


def run_notebook(
    notebook: Path, out: Path, parameters: Mapping[str, Any], progress: bool
) -> float:
    """Execute one notebook into `out` and return its minutes.

    Raises:
        NotebookError: It names the cell, the error and the partly executed copy.
    """
    import papermill
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    started = time.monotonic()
    copy = out / notebook.name
    try:
        papermill.execute_notebook(
            str(notebook),
            str(copy),
            parameters=dict(parameters),
            progress_bar=progress,
            kernel_name="python3",
            # Of the kernel, not of its cells: it reports its own end as an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        where = f"cell {error.cell_index} ({error.ename}: {error.evalue})"
    except (CellExecutionError, DeadKernelError) as error:
        where = f"its kernel ({error})"
    else:
        return (time.monotonic() - started) / 60
    raise NotebookError(
        f"notebook {notebook.stem} failed in {where}",
        str(copy),
        "Read that partly executed copy, mend the cause and run the notebook again "
        f"(`--only {notebook.stem[:2]}`)",
    )


@contextlib.contextmanager
def own_port(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Give the service another port, for a block, where the usual one isn't free.

    A port that somebody names stays, and so does that of a cluster that is joined: its
    Serve may listen there already. Of two batches on one machine, the lock gives the
    usual port to one, before either service listens.
    """
    from filelock import FileLock, Timeout

    usual = Settings.given()
    joins = (parameters.get("address") or usual.address) != LOCAL
    if joins or "port" in usual.model_fields_set | set(parameters):
        yield
        return
    lock = FileLock(Path(tempfile.gettempdir()) / f"doggos-{usual.port}.lock")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
            free_port(usual.host, usual.port)
        except (Timeout, OSError):  # another batch's, another user's, or the host's
            with contextlib.suppress(OSError):  # of the host, which notebook 06 says
                port = free_port(usual.host, 0)
                print(f"Port {usual.port} is taken: the service will listen on {port}.")
                held.enter_context(environment(DOGGOS_PORT=str(port)))
        yield


def run_notebooks(settings: BatchSettings) -> Path:
    """Run the notebooks and return the folder of the executed copies.

    Raises:
        SettingsError: Before anything runs: a wrong notebook or parameter.
        NotebookError: One failed; those after it don't run.
    """
    # Without it, a debugger's warning about frozen modules precedes each kernel.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    folder = Path(settings.notebooks or REPOSITORY / "notebooks")
    every = find_notebooks(folder)
    declared = {notebook: declared_parameters(notebook) for notebook in every}
    parameters = read_parameters(settings.params_file) | settings.options
    check_parameters(parameters, set().union(*declared.values()))
    out = Path(settings.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with own_port(parameters):
        for notebook in find_notebooks(folder, settings.only):
            print(f"{notebook.stem:<24}", end="", flush=True)
            given = {n: v for n, v in parameters.items() if n in declared[notebook]}
            try:
                minutes = run_notebook(notebook, out, given, settings.shows_progress)
            except BaseException:
                print("failed")
                raise
            print(f"{minutes:.1f} min", flush=True)
    return out
