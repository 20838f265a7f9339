"""The notebooks in order, executed with papermill into an output folder."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from doggos_helpers.batch.report import is_done, publish
from doggos_helpers.environment import environment
from doggos_helpers.errors import DoggosError, SettingsError
from doggos_helpers.serve.service import free_port
from doggos_helpers.settings import LOCAL, Settings, suggestion

SERIES = Path(__file__).resolve().parents[2] / "notebooks"


class NotebookError(DoggosError):
    """A notebook failed."""


class BatchSettings(Settings, env_prefix="DOGGOS_BATCH_"):
    """Settings of the notebooks, and which of them run where.

    An option becomes a parameter of each notebook that declares it. What else is in
    the environment the notebooks read themselves, below their parameters.
    """

    out: str = Field("build/tutorial", description="folder for executed notebooks")
    notebooks: str = Field("", description="folder of notebooks; empty: this series")
    params_file: str = Field("", description="YAML file of parameters")
    only: str = Field("", description="numbers of notebooks, such as 03,04")
    first: str = Field("", alias="from", description="number of the first notebook")
    resume: bool = Field(False, description="keep what ran to its end before")

    @property
    def options(self) -> dict[str, Any]:
        """The settings of notebooks that were given as options."""
        given = self.model_fields_set & set(Settings.model_fields)
        return self.model_dump(include=given)


def find_notebooks(folder: Path, only: str = "", first: str = "") -> list[Path]:
    """Return the numbered notebooks of a folder: `only` "03,04", or `first` and on.

    Raises:
        SettingsError: There are none, or one that is named is missing.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    names = tuple(name.strip().zfill(2) for name in only.split(",") if name.strip())
    first = first and first.zfill(2)
    for name in (*names, first):
        if not any(path.name.startswith(name) for path in found):
            known = ", ".join(path.stem[:2] for path in found) or "none"
            fix = f"Choose from {known}, or another folder (--notebooks)"
            raise SettingsError("no such notebook", f"{folder}/{name}*.ipynb", fix)
    found = [path for path in found if path.name >= first]
    return [path for path in found if path.name.startswith(names or "")]


def declared_parameters(notebook: Path) -> set[str]:
    """Return the names in a notebook's cell tagged `parameters`."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def read_parameters(path: str) -> dict[str, Any]:
    """Read a YAML file of parameters, or raise a SettingsError; no path, none."""
    import yaml

    try:
        return dict((path and yaml.safe_load(Path(path).read_text())) or {})
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        what = f"can't read the parameters ({' '.join(str(error).split())})"
        fix = "Name a YAML file of name: value, as those in notebooks/params"
        raise SettingsError(what, path, fix) from error


def check_parameters(parameters: Mapping[str, Any], declared: set[str]) -> None:
    """Raise a SettingsError of what no notebook declares: papermill would only warn."""
    for name in parameters.keys() - declared:
        fix = suggestion(name, declared, "Remove it")
        if name in Settings.model_fields:
            fix = f"No notebook takes it; set DOGGOS_{name.upper()} in the environment"
        raise SettingsError("no notebook declares this parameter", name, fix)


def run_notebook(
    notebook: Path, copy: Path, parameters: Mapping[str, Any], progress: bool
) -> None:
    """Execute one notebook into a copy.

    Raises:
        NotebookError: It names the cell, the error and the partly executed copy.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # Of the kernel, not of its cells: it reports its own end as an error.
    quiet = {"extra_arguments": ["--log-level=CRITICAL"], "progress_bar": progress}
    try:
        papermill.execute_notebook(
            notebook, copy, parameters, kernel_name="python3", **quiet
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        where = f"its kernel ({error})"
        if isinstance(error, PapermillExecutionError):
            where = f"cell {error.cell_index} ({error.ename}: {error.evalue})"
        what = f"notebook {notebook.stem} failed in {where}"
        fix = "Read that partly executed copy, mend the cause and run the notebook"
        fix += f" again (`--only {notebook.stem[:2]}`)"
        raise NotebookError(what, str(copy), fix) from None


def own_port(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Choose a free port for the service, as a variable for the notebooks.

    Two batches on one machine then serve side by side. A port that somebody names
    stays, and so does that of a cluster that is joined: its Serve may listen already.
    """
    usual = Settings.given()
    starts = (parameters.get("address") or usual.address) == LOCAL
    if starts and "port" not in usual.model_fields_set | set(parameters):
        with contextlib.suppress(OSError):  # what is wrong with a host, 06 says
            return {"DOGGOS_PORT": str(free_port(usual.host, 0))}
    return {}


def run_notebooks(settings: BatchSettings) -> Path:
    """Run the notebooks and return the folder of the executed copies.

    Each is written as HTML as well, with a page of all; all of it goes to the storage,
    and is taken from there to resume.

    Raises:
        SettingsError: Before anything runs: a wrong notebook or parameter.
        NotebookError: One failed; those after it don't run.
    """
    folder, out = Path(settings.notebooks or SERIES), Path(settings.out).resolve()
    series = find_notebooks(folder)
    chosen = find_notebooks(folder, settings.only, settings.first)
    declared = {path: declared_parameters(path) for path in series}
    parameters = read_parameters(settings.params_file) | settings.options
    check_parameters(parameters, set().union(*declared.values()))
    theirs = Settings.given(**parameters)
    stored = theirs.artefacts / "notebooks"
    about = f"Data set {theirs.dataset}, model {theirs.model}; {theirs.artefacts}"
    out.mkdir(parents=True, exist_ok=True)
    keep = settings.resume
    # Without the first, a debugger's warning about frozen modules precedes each kernel.
    with environment(PYDEVD_DISABLE_FILE_VALIDATION="1", **own_port(parameters)):
        for notebook in chosen:
            print(f"{notebook.stem:<24}", end="", flush=True)
            given = {n: v for n, v in parameters.items() if n in declared[notebook]}
            copy = out / notebook.name
            if keep and (stored / copy.name).is_file():
                copy.write_bytes((stored / copy.name).read_bytes())
            # What follows one that runs again has other inputs.
            if keep := keep and is_done(notebook, copy, given):
                print("kept", flush=True)
                continue
            started = time.monotonic()
            try:
                run_notebook(notebook, copy, given, settings.shows_progress)
            finally:
                print(f"{(time.monotonic() - started) / 60:.1f} min", flush=True)
                if copy.is_file():
                    publish(copy, [out / p.name for p in series], about, stored)
    return out
