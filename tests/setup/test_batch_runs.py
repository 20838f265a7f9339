"""A batch that is broken and resumed, by real papermill; its pages; as a Ray job."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from doggos_helpers.batch.__main__ import main
from doggos_helpers.batch.notebooks import NotebookError
from doggos_helpers.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = 'epochs: int = 0  # passes\nstorage: str = ""  # where'
BROKEN, MENDED = "print(1 / 0)", "print('All good: 7 of 7.')"


def write(folder: Path, name: str, source: str) -> None:
    parameters = nbformat.v4.new_code_cell(PARAMETERS)
    parameters.metadata["tags"] = ["parameters"]
    cells = [parameters, nbformat.v4.new_code_cell(source)]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Three notebooks, of which the second fails."""
    folder = tmp_path / "series"
    folder.mkdir()
    write(folder, "01_one", "print('All good: 384 embedded.')")
    write(folder, "02_two", BROKEN)
    write(folder, "03_three", "print('All good.')")
    return folder


@pytest.fixture
def options(series: Path, tmp_path: Path) -> list[str]:
    given = {"notebooks": series, "out": tmp_path / "out"}
    given |= {"storage": tmp_path / "storage", "epochs": 2}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def published(tmp_path: Path) -> Path:
    return (
        Path(str(Settings(storage=str(tmp_path / "storage")).artefacts)) / "notebooks"
    )


def test_it_stops_at_a_failure_says_the_cells_message_and_goes_on_there(
    series: Path, options: list[str], tmp_path: Path, capsys
) -> None:
    with pytest.raises(NotebookError, match="02_two failed in cell .*division by zero"):
        main(options)
    assert "03_three" not in capsys.readouterr().out
    page = (published(tmp_path) / "index.html").read_text()
    assert "384 embedded" in page and "ZeroDivisionError: division by zero" in page

    write(series, "02_two", MENDED)
    assert main([*options, "--resume"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^(0\d)_\w+ +(kept|\d)", said, re.M) == [
        ("01", "kept"),
        ("02", "0"),
        ("03", "0"),
    ]
    for folder in (tmp_path / "out", published(tmp_path)):
        page = (folder / "index.html").read_text()
        assert "7 of 7" in page and "ZeroDivisionError" not in page
        for link in re.findall(r'href="([^"]+)"', page):
            assert (folder / link).is_file(), link
    assert main([*options, "--resume"]) == 0
    assert capsys.readouterr().out.count("kept") == 3


def test_other_parameters_and_what_follows_run_again(
    series: Path, options: list[str], capsys
) -> None:
    write(series, "02_two", MENDED)
    assert main(options) == 0
    write(series, "02_two", f"{MENDED}  # changed")
    capsys.readouterr()
    assert main([*options, "--resume"]) == 0
    assert capsys.readouterr().out.count("kept") == 1
    assert main([*options[:-1], "3", "--resume"]) == 0
    assert "kept" not in capsys.readouterr().out


def test_it_begins_where_it_is_told(series: Path, options: list[str], capsys) -> None:
    assert main([*options, "--from", "3"]) == 0
    said = capsys.readouterr().out
    assert "03_three" in said and "01_one" not in said and "02_two" not in said


def test_its_pages_ask_for_nothing_from_the_internet(
    series: Path, options: list[str], tmp_path: Path
) -> None:
    assert main([*options, "--only", "1"]) == 0
    page = (tmp_path / "out" / "01_one.html").read_text()
    assert "384 embedded" in page
    assert "<script" not in page and not re.search(r'(src|href)="https?:', page)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("0*.ipynb")))
def test_papermill_documents_each_parameter(path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "papermill", "--help-notebook", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    source = nbformat.read(path, as_version=4).cells
    [cell] = [c for c in source if "parameters" in c.metadata.get("tags", [])]
    for line in cell.source.splitlines():
        name, help_text = line.split(":")[0], line.partition("  # ")[2]
        told = " ".join(ran.stdout.split())
        assert f"{name}:" in told and help_text[:40] in told, (line, ran.stdout)


@pytest.mark.long
def test_it_runs_as_a_ray_job(series: Path, options: list[str], tmp_path: Path) -> None:
    from tools.local_cluster import local_cluster

    write(series, "02_two", MENDED)
    with local_cluster(tmp_path / "cluster", workers=0) as cluster:
        command = f"{sys.executable} -m doggos_helpers.batch {' '.join(options)}"
        line = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        line += [f"--address=http://{cluster.dashboard}", "--", *command.split()]
        environment = os.environ | cluster.environment | {"PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            line, env=environment, capture_output=True, text=True, timeout=300
        )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "7 of 7" in (published(tmp_path) / "index.html").read_text()
