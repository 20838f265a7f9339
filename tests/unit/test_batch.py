"""Choosing notebooks and parameters; nothing is executed here."""

import socket
from pathlib import Path

import nbformat
import pytest
import yaml

from doggos_helpers.batch import notebooks as batch
from doggos_helpers.batch.__main__ import main
from doggos_helpers.batch.notebooks import BatchSettings
from doggos_helpers.errors import SettingsError
from doggos_helpers.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def write_notebook(path: Path, *sources: str) -> None:
    """Write a notebook whose first cell is tagged `parameters`."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two notebooks; each declares another parameter."""
    write_notebook(tmp_path / "01_one.ipynb", "epochs: int = 0  # passes")
    write_notebook(tmp_path / "02_two.ipynb", "k: int = 0  # neighbours")
    write_notebook(tmp_path / "draft.ipynb", "seed: int = 0")
    return tmp_path


def test_notebooks_come_in_the_order_of_their_numbers(folder: Path) -> None:
    names = [p.name for p in batch.find_notebooks(folder)]
    assert names == ["01_one.ipynb", "02_two.ipynb"]
    assert batch.find_notebooks(folder, "02,01") == batch.find_notebooks(folder)
    assert [p.name for p in batch.find_notebooks(folder, "2")] == ["02_two.ipynb"]


def test_only_refuses_a_number_that_is_not_there(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"/07\*.ipynb\n.*Choose from 01, 02"):
        batch.find_notebooks(folder, "01,07")


def test_options_are_what_the_command_line_gave_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOGGOS_EPOCHS", "7")
    settings = BatchSettings.from_command("x", ["-k", "3", "--out", "somewhere"])
    assert settings.options == {"k": 3}


def test_a_relative_dataset_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = BatchSettings.from_command("x", ["--dataset", "../photos"])
    assert given.options == {"dataset": str(tmp_path.parent / "photos")}
    uri = BatchSettings.from_command("x", ["--dataset", "s3://bucket/dogs"])
    assert uri.options == {"dataset": "s3://bucket/dogs"}


def test_a_misspelt_parameter_is_refused_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters, out = folder / "p.yaml", folder / "out"
    parameters.write_text("epoch: 3\n")
    arguments = ["--notebooks", str(folder), "--params-file", str(parameters)]
    with pytest.raises(SettingsError, match="(?s)epoch.*Did you mean epochs") as error:
        main([*arguments, "--out", str(out)])
    assert error.value.exit_code == 2
    assert not out.exists() and capsys.readouterr().out == ""


def test_a_setting_that_no_notebook_declares_names_its_variable(folder: Path) -> None:
    with pytest.raises(SettingsError, match="DOGGOS_PORT"):
        main(["--notebooks", str(folder), "--port", "8123"])


@pytest.mark.parametrize("content", ["- epochs\n", "epochs: [\n"])
def test_a_file_that_holds_no_parameters_is_refused(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=str(path)):
        batch.read_parameters(str(path))


FILES = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_files_hold_declared_parameters_with_good_values(file: Path) -> None:
    notebooks = batch.find_notebooks(ROOT / "notebooks")
    declared = set().union(*map(batch.declared_parameters, notebooks))
    parameters = yaml.safe_load(file.read_text())
    batch.check_parameters(parameters, declared)
    Settings.given(**parameters)


def test_there_are_the_four_files_of_the_readme() -> None:
    assert {f.stem for f in FILES} == {"local", "gpu", "anyscale", "smoke"}


def test_two_batches_at_a_time_get_two_ports(monkeypatch) -> None:
    monkeypatch.delenv("DOGGOS_PORT", raising=False)
    monkeypatch.setenv("DOGGOS_ADDRESS", "local")
    ports = {batch.own_port({})["DOGGOS_PORT"] for _ in range(2)}
    assert len(ports) == 2
    for port in ports:
        with socket.create_server(("127.0.0.1", int(port))):
            pass  # it is free


def test_a_port_that_somebody_named_or_of_a_joined_cluster_is_left(monkeypatch) -> None:
    monkeypatch.delenv("DOGGOS_PORT", raising=False)
    monkeypatch.setenv("DOGGOS_ADDRESS", "local")
    for given in ({"port": 8123}, {"address": "192.0.2.1:6379"}):
        assert batch.own_port(given) == {}
    monkeypatch.setenv("DOGGOS_PORT", "8000")
    assert batch.own_port({}) == {}
    monkeypatch.delenv("DOGGOS_PORT")
    monkeypatch.setenv("DOGGOS_HOST", "192.0.2.1")  # no address of this machine
    assert batch.own_port({}) == {}  # notebook 06 says what is wrong with it
