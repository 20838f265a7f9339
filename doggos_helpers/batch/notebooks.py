"""The notebooks in order, executed with papermill into an output folder."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from doggos_helpers.environment import environment
from doggos_helpers.errors import DoggosError, SettingsError
from doggos_helpers.serve.service import free_port
from doggos_helpers.settings import LOCAL, Settings, suggestion

SERIES = Path(__file__).resolve().parents[2] / "notebooks"


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
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take options alone, so that `model_fields_set` says what was given."""
        return (sources["init_settings"],)

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
    names = [part.strip() for part in only.split(",") if part.strip()]
    starts = tuple(name.zfill(2) for name in names) or ("",)
    for start in starts:
        if not any(path.name.startswith(start) for path in found):
            known = ", ".join(path.stem[:2] for path in found)
            raise SettingsError(
                "no such notebook", f"--only {start}", f"Choose from {known}"
            )
    return [path for path in found if path.name.startswith(starts)]


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

    try:
        content = yaml.safe_load(Path(path).read_text()) if path else {}
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


def own_port(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Choose a free port for the service, as a variable for the notebooks.

    Two batches on one machine then serve side by side. A port that somebody names
    stays, and so does that of a cluster that is joined: its Serve may listen already.
    """
    usual = Settings.given()
    joins = (parameters.get("address") or usual.address) != LOCAL
    if joins or "port" in usual.model_fields_set | set(parameters):
        return {}
    with contextlib.suppress(OSError):  # what is wrong with the host, notebook 06 says
        return {"DOGGOS_PORT": str(free_port(usual.host, 0))}
    return {}


def run_notebooks(settings: BatchSettings) -> Path:
    """Run the notebooks and return the folder of the executed copies.

    Raises:
        SettingsError: Before anything runs: a wrong notebook or parameter.
        NotebookError: One failed; those after it don't run.
    """
    folder, out = Path(settings.notebooks or SERIES), Path(settings.out).resolve()
    chosen = find_notebooks(folder, settings.only)
    declared = {path: declared_parameters(path) for path in find_notebooks(folder)}
    parameters = read_parameters(settings.params_file) | settings.options
    check_parameters(parameters, set().union(*declared.values()))
    out.mkdir(parents=True, exist_ok=True)
    # Without the first, a debugger's warning about frozen modules precedes each kernel.
    with environment(PYDEVD_DISABLE_FILE_VALIDATION="1", **own_port(parameters)):
        for notebook in chosen:
            print(f"{notebook.stem:<24}", end="", flush=True)
            given = {n: v for n, v in parameters.items() if n in declared[notebook]}
            try:
                minutes = run_notebook(notebook, out, given, settings.shows_progress)
            except BaseException:
                print("failed")
                raise
            print(f"{minutes:.1f} min", flush=True)
    return out
