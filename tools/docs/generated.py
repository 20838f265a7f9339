"""What pages show of the code: settings, the series with its minutes, API, costs.

Each is a file under `_generated` of the assembled source, which the pages include.
"""

import importlib
import shutil
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from doggos_helpers.settings import PREFIX, Settings
from tools.docs import costs
from tools.docs.notebooks import NOTEBOOKS, minutes, read_executed

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("doggos_helpers", "doggos_sample")
# Groups of settings by the stage that reads them, in the order of the series.
GROUPS = {
    "What and where": ("dataset", "images_per_class", "max_bad_share", "storage"),
    "The model": ("model", "model_revision", "dtype"),
    "The cluster": ("address", "wait_for_", "grow_to_", "progress"),
    "Workers": ("use_gpu", "accelerator_type", "gpus_per", "memory_per"),
    "Embedding": ("embed_",),
    "Training": (
        *("train_", "epochs", "patience", "learning_", "rate_", "clip_"),
        *("hidden_", "dropout", "seed"),
    ),
    "Tracking": ("tracking_",),
    "Search and service": ("",),  # the rest
}

LISTED = {"index", "scaling-out", "troubleshooting"}
LEFT = set(Settings.model_fields)  # what every command has


def write(source: Path) -> None:
    """Write all of them under the source folder."""
    folder = source / "_generated"
    folder.mkdir()
    (folder / "settings.md").write_text(settings_tables())
    (folder / "commands.md").write_text(command_tables())
    (folder / "series.md").write_text(series_table())
    (folder / "costs.md").write_text(costs.table())
    benchmarks = (ROOT / "benchmarks" / "README.md").read_text().partition("\n")[2]
    for there, here in {
        "](results/": "](../_generated/results/",
        "](../docs/": "](../",
    }.items():
        benchmarks = benchmarks.replace(there, here)  # as seen from about/benchmarks
    (folder / "benchmarks.md").write_text(benchmarks)
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "results")
    for name in ("deploy", "notebooks/params"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / Path(name).name)
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    api = source / "reference" / "api"
    api.mkdir()
    pages = [page for package in PACKAGES for page in api_pages(ROOT / package)]
    for name, text in pages:
        (api / f"{name}.rst").write_text(text)
    names = "\n".join(name for name, _ in pages)
    fence = "```{toctree}\n:maxdepth: 1\n\n" + names + "\n```\n"
    (api / "index.md").write_text((source / "reference" / "api.md").read_text() + fence)
    (source / "reference" / "api.md").unlink()

    list_reports(source)


def list_reports(source: Path) -> None:
    """List the pages of docs/ itself that no other page lists: reports of tests."""
    reports = {page.stem for page in source.glob("*.md")} - LISTED
    about = source / "about" / "index.md"
    text = about.read_text().rstrip().removesuffix("```")
    about.write_text("\n".join([text, *(f"../{r}" for r in sorted(reports)), "```\n"]))


def series_table() -> str:
    """Return the table of notebooks: what each does, reads, writes and takes."""
    lines = [
        "| notebook | what you do | reads | writes | minutes |",
        "|---|---|---|---|---|",
    ]
    for notebook in NOTEBOOKS:
        executed = read_executed(notebook)
        opening = executed.cells[0].source.splitlines()
        title, sentence = [line for line in opening if line.strip()][:2]
        needs = [line for line in opening if "Reads: " in line or "Writes: " in line]
        need = " ".join(line.removeprefix("- ").strip() for line in needs)
        reads, _, writes = need.removeprefix("Reads: ").partition("Writes: ")
        link = f"[{notebook.stem[:2]} {title[2:]}]({notebook.stem})"
        took = minutes(executed).removesuffix(" minutes")
        lines.append(f"| {link} | {sentence} | {reads} | {writes} | {took} |")
    return "\n".join(lines) + "\n"


def settings_tables() -> str:
    """Return a table of settings for each group."""
    left, parts = dict(Settings.model_fields), []
    for title, prefixes in GROUPS.items():
        names = [name for name in left if name.startswith(prefixes)]
        rows = [_setting(name, left.pop(name)) for name in names]
        head = (
            "| option, variable | takes | default | what it is |\n|---|---|---|---|\n"
        )
        parts.append(f"## {title}\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def command_tables() -> str:
    """Return a table of the options that a command alone has, for each command."""
    package, parts = ROOT / "doggos_helpers", []
    for file in sorted(package.glob("*/__main__.py")):
        command = f"doggos_helpers.{file.parent.name}"
        values = vars(importlib.import_module(f"{command}.__main__")).values()
        kinds = [v for v in values if isinstance(v, type) and issubclass(v, Settings)]
        for kind in [kind for kind in kinds if kind is not Settings]:
            names = [name for name in kind.model_fields if name not in LEFT]
            rows = [_setting(n, kind.model_fields[n], variable=False) for n in names]
            head = "| option | takes | default | what it is |\n|---|---|---|---|\n"
            title = f"### `python -m {command}`\n\n"
            parts.append(title + head + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _setting(name: str, field: Any, variable: bool = True) -> str:
    option = f"`--{(field.alias or name).replace('_', '-')}`"
    if variable:
        option += f"<br>`{PREFIX}{name.upper()}`"
    default = f"`{field.default}`"
    if field.default is None:
        default = "from the plan" if variable else "none"
    if not str(field.default):  # of a secret, too
        default = "empty"
    if field.description.startswith("default: ") or "; default: " in field.description:
        default = field.description.rpartition("default: ")[2]
    meaning = field.description.partition("default: ")[0].rstrip("; ")
    takes = " or ".join(_kinds(field.annotation))
    return f"| {option} | {takes} | {default} | {meaning} |"


def _kinds(annotation: Any) -> list[str]:
    """Name the values of a type, without None, which means "not given"."""
    if get_origin(annotation) is Literal:
        return [f"`{value}`" for value in get_args(annotation)]
    if parts := get_args(annotation):
        return [k for part in parts if part is not type(None) for k in _kinds(part)]
    words = {str: "text", int: "a whole number", float: "a number", bool: "yes or no"}
    return [words.get(annotation, "text")]


def api_pages(package: Path) -> list[tuple[str, str]]:
    """Return the name and text, in reStructuredText, of one page a folder."""
    folders = {package: sorted(package.glob("*.py"))}
    for module in sorted(package.rglob("*/*.py")):
        folders.setdefault(module.parent, []).append(module)
    pages = []
    for folder, modules in folders.items():
        name = ".".join(folder.relative_to(ROOT).parts)
        documented = [m for m in modules if not m.name.startswith("__")]
        if not documented:
            continue
        parts = [f"{name}\n{'=' * len(name)}\n"]
        for module in documented:
            full = f"{name}.{module.stem}"
            parts.append(f"{full}\n{'-' * len(full)}\n\n.. automodule:: {full}\n")
        pages.append((name, "\n".join(parts)))
    return pages
