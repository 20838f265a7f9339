"""The registry, on a real MLflow database."""

import logging
import shutil
import time

import pytest
import torch
from mlflow.models import Model

from doggos_helpers.errors import ModelError, StorageError
from doggos_helpers.settings import Settings
from doggos_helpers.train import registry, tracking
from doggos_helpers.train.__main__ import main
from doggos_helpers.train.classifier import LABELS, Classifier, load, save

CLASSES = ["akita", "beagle"]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One migrated database for the module: making it takes seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/new folder/mlflow.db"
    tracking.open_tracking(uri)
    return uri


@pytest.fixture
def settings(database, tmp_path):
    # Another model folder a test is another pair: its own name in the registry.
    (tmp_path / "model").mkdir()
    return Settings(
        storage=str(tmp_path / "a storage"),
        model=str(tmp_path / "model"),
        tracking_uri=database,
    )


def train(
    settings, val_loss, classes=CLASSES, fingerprint="f", dimension=4, encoder="e"
):
    """Register a classifier as a training would."""
    torch.manual_seed(0)
    model = Classifier(dimension, 8, len(classes))
    folder = settings.training_dir / "checkpoint"
    about = {"fingerprint": fingerprint, "val_loss": val_loss, "epoch": 3}
    about["encoder"] = encoder
    save(model, folder, classes, **about)
    with tracking.tracked_run(settings, epochs=3) as run_id:
        return registry.register(settings, run_id, folder), run_id


def test_the_first_is_champion_and_lies_under_the_storage(settings):
    version, run_id = train(settings, 0.5)
    assert version.champion and version.version == 1
    folder = registry.champion(settings).folder
    assert folder == version.folder
    assert folder.is_relative_to(settings.training_dir / "mlflow")
    names = ["MLmodel", "classifier.json", "classifier.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert Model.load(str(folder)).signature.outputs.inputs[0].shape == (-1, 2)
    assert load(folder)[1] == CLASSES
    run = tracking.open_tracking(settings.tracking).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_val_loss"] == 0.5
    assert run.data.params["epochs"] == "3"
    assert "mlflow.source.git.commit" in run.data.tags


@pytest.mark.parametrize(
    ("second", "wins", "verdict"),
    [
        ({"val_loss": 0.4}, True, "champion: validation loss 0.4000"),
        ({"val_loss": 0.5}, True, "champion: validation loss 0.5000"),
        ({"val_loss": 0.6}, False, "not promoted"),
        ({"val_loss": 0.6, "fingerprint": "g"}, True, "other data"),
        ({"val_loss": 0.6, "encoder": "other weights"}, True, "other data"),
        ({"val_loss": 0.6, "classes": ["akita", "corgi"]}, True, "other data"),
        ({"val_loss": 0.6, "dimension": 5}, True, "other data"),
    ],
)
def test_the_second_is_champion_unless_it_is_worse(settings, second, wins, verdict):
    first, _ = train(settings, 0.5)
    new, _ = train(settings, **second)
    assert new.champion is wins and verdict in new.verdict
    now = registry.champion(settings)
    assert now.version == (new if wins else first).version
    listed = registry.versions(settings)
    assert [(v.version, v.champion) for v in listed] == [(2, wins), (1, not wins)]


def test_a_champion_whose_files_are_gone_is_replaced(settings):
    first, _ = train(settings, 0.5)
    shutil.rmtree(first.folder)
    with pytest.raises(StorageError, match="folder is gone") as error:
        registry.champion(settings)
    assert str(first.folder) in str(error.value)
    assert train(settings, 0.9)[0].champion


def test_a_training_is_not_lost_to_a_champion_that_is_damaged(settings):
    first, _ = train(settings, 0.5)
    (first.folder / LABELS).write_text("[]")
    new, _ = train(settings, 0.9)
    assert new.champion and "version 1 can't be read" in new.verdict


def test_the_way_back(settings):
    first, _ = train(settings, 0.5)
    with pytest.raises(ModelError, match="no champion before"):
        registry.rollback(settings)
    train(settings, 0.4)
    train(settings, 0.6)  # not promoted: the one before is still the first
    assert registry.rollback(settings).version == first.version
    assert registry.champion(settings).folder == first.folder
    assert registry.rollback(settings).version == 2, "and forward again"
    registry.promote(settings, first.version)
    registry.promote(settings, first.version)
    assert registry.named(settings, registry.PREVIOUS).version == 2
    with pytest.raises(ModelError, match="no version 7") as error:
        registry.promote(settings, 7)
    assert "[3, 2, 1]" in str(error.value)


def test_the_way_back_as_a_command(settings, capsys):
    train(settings, 0.5)
    train(settings, 0.4)
    names = ("storage", "model", "tracking_uri")
    options = [f"--{n.replace('_', '-')}={getattr(settings, n)}" for n in names]
    assert main([*options, "--rollback"]) == 0
    assert "version 1 is champion again" in capsys.readouterr().out
    assert registry.champion(settings).version == 1


def test_without_a_champion_the_notebook_is_named(settings):
    with pytest.raises(StorageError, match="no champion") as error:
        registry.champion(settings)
    assert "04_training" in str(error.value)
    assert registry.versions(settings) == []


def test_a_champion_of_another_pair_is_left_alone(settings, tmp_path):
    mine, _ = train(settings, 0.5)
    (tmp_path / "other").mkdir()
    other = settings.model_copy(update={"model": str(tmp_path / "other")})
    assert train(other, 0.1)[0].champion
    assert registry.champion(settings).folder == mine.folder


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")],
)
def test_an_error_ends_the_run(settings, error, status):
    with pytest.raises(error), tracking.tracked_run(settings) as run_id:
        raise error
    run = tracking.open_tracking(settings.tracking).get_run(run_id)
    assert run.info.status == status


def epoch(number, loss):
    metrics = {"candidate": "network", "epoch": number, "attempt": 1, "val_loss": loss}
    return metrics | {"time_ms": 1000 * number, "nodes": {"n": 1}}


def test_figures_are_logged_once_however_often_they_are_told(settings):
    """What a server that was away has missed comes at the end, with the rest."""
    epochs = [epoch(1, 0.9), epoch(2, 0.7), epoch(3, 0.8)]
    with tracking.tracked_run(settings) as run_id:
        away = tracking.EpochLogger("http://127.0.0.1:9", run_id)
        here = tracking.EpochLogger(settings.tracking, run_id)
        for logger, metrics in zip((here, away, here), epochs, strict=True):
            logger.after_report(None, [metrics, metrics], None)
        tracking.log_epochs(settings.tracking, run_id, epochs)
    client = tracking.open_tracking(settings.tracking)
    history = client.get_metric_history(run_id, "network/val_loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 0.9), (2, 0.7), (3, 0.8)]


def test_a_run_that_was_interrupted_is_gone_on_with_and_others_are_not(settings):
    ids = []
    for params, error in (
        ({"epochs": 3}, KeyboardInterrupt),
        ({"epochs": 3}, KeyboardInterrupt),
        ({"epochs": 4}, KeyboardInterrupt),
        ({"epochs": 4}, RuntimeError),
        ({"epochs": 4}, RuntimeError),
    ):
        with pytest.raises(error), tracking.tracked_run(settings, **params) as run_id:
            ids.append(run_id)
            raise error
    assert ids[0] == ids[1] != ids[2] == ids[3] != ids[4]


@pytest.mark.parametrize("uri", ["sqlite:///{}/file/mlflow.db", "http://127.0.0.1:9"])
def test_a_tracking_address_that_does_not_work_is_named_at_once(tmp_path, uri):
    (tmp_path / "file").write_text("")
    uri = uri.format(tmp_path)
    started = time.monotonic()
    with pytest.raises(StorageError, match="MLflow can't be used") as error:
        tracking.open_tracking(uri)
    assert uri in str(error.value) and "tracking_uri" in str(error.value)
    assert time.monotonic() - started < 60  # MLflow alone would try for minutes


def test_a_new_database_is_made_without_a_word(tmp_path, capfd, caplog):
    with caplog.at_level(logging.INFO):
        tracking.open_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").is_file()
    assert "".join(capfd.readouterr()) == "" and caplog.text == ""
