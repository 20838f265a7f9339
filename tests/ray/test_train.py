"""Training on Ray, on synthetic embeddings."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.embed.table import read_contents, read_embeddings
from doggos_helpers.errors import ClusterError, DataError, StorageError, user_cause
from doggos_helpers.train import loop as train_loop
from doggos_helpers.train import registry, tracking, trainer
from doggos_helpers.train.classifier import load, predict_probabilities
from doggos_helpers.train.stage import check, conclude, train
from doggos_helpers.train.trainer import build_trainer, fit
from tests.synthetic import CLASSES, write_embeddings

EPOCHS = 4


@pytest.fixture(scope="module")
def settings(cluster, tmp_path_factory):
    """Settings with a storage and a tracking database of this module's own."""
    folder = tmp_path_factory.mktemp("train")
    chosen = {
        "storage": str(folder),
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "epochs": EPOCHS,
        "dropout": 0.3,
    }
    chosen = cluster[0].model_copy(update=chosen)
    write_embeddings(chosen)
    return chosen


@pytest.fixture(scope="module")
def run(cluster, settings):
    """One training that the tests look at."""
    before = signal.getsignal(signal.SIGINT)
    record = train(check(settings), cluster[1])
    assert signal.getsignal(signal.SIGINT) is before
    return record


def test_every_row_is_seen_and_none_is_dropped(run):
    # 101 training rows and 33 to validate for two workers: neither number is even.
    assert run["counts"] == {"train": 101, "train_seen": 101, "val": 33, "val_seen": 33}
    assert sum(run["nodes"].values()) == 101
    assert all(m["train_rows"] == 101 for m in run["history"])


def test_the_loss_falls_and_beats_chance(run):
    history = run["history"]
    assert [m["epoch"] for m in history] == list(range(1, EPOCHS + 1))
    losses = [m["val_loss"] for m in history]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert run["chance"] == pytest.approx(1 / len(CLASSES))
    assert run["best"]["val_accuracy"] > 3 * run["chance"]


def test_the_figures_are_those_of_the_registered_classifier(run, settings):
    folder = registry.champion(settings).folder
    assert str(folder) == run["classifier"] and run["champion"]
    assert run["classes"] == list(CLASSES)
    model, classes = load(folder)
    val = read_embeddings(settings, "val")
    probabilities = predict_probabilities(model, val.vectors)
    right = np.searchsorted(classes, val.classes)
    loss = -np.log(probabilities[np.arange(len(val)), right]).mean()
    assert loss == pytest.approx(run["best"]["val_loss"], rel=1e-4)
    accuracy = (probabilities.argmax(axis=1) == right).mean()
    assert accuracy == pytest.approx(run["best"]["val_accuracy"])


def test_mlflow_has_the_epochs_and_the_best(run, settings):
    client = tracking.open_tracking(settings.tracking)
    logged = client.get_metric_history(run["mlflow_run"], "val_loss")
    assert [m.value for m in logged] == [m["val_loss"] for m in run["history"]]
    found = client.get_run(run["mlflow_run"])
    assert found.data.metrics["best_val_loss"] == run["best"]["val_loss"]
    assert found.info.status == "FINISHED" and found.data.params["seed"] == "0"


def test_the_record_is_on_disk_and_no_pickle_can_run_code(run, settings):
    stored = json.loads((settings.training_dir / "run.json").read_text())
    assert stored == json.loads(json.dumps(run)) and stored["stage"] == "train"
    assert stored["fingerprint"] == "synthetic"
    files = [p for p in settings.training_dir.rglob("*") if p.is_file()]
    kinds = {p.suffix for p in files if not p.name.startswith(".")}
    assert kinds == {
        ".json",
        ".safetensors",
        ".pt",
    }  # resume.pt, read with weights_only
    # The best checkpoint and the latest, which may be one.
    assert 1 <= len(list(settings.training_dir.glob("runs/*/checkpoint_*"))) <= 2


@pytest.mark.long
def test_after_a_worker_died_the_same_figures_come_out(run, cluster, settings):
    """It resumes from the last checkpoint; and the same seed gives the same result."""
    marker = settings.training_dir / "died"
    loop = train_loop.train_loop

    def dies_once(config):
        whole = train_loop._report

        def report(model, optimizer, history, config):
            import ray.train

            if len(history) == 3 and ray.train.get_context().get_world_rank() == 1:
                if not marker.exists():
                    marker.touch()
                    raise RuntimeError("a worker died")
            whole(model, optimizer, history, config)

        train_loop._report = report
        try:
            return loop(config)
        finally:
            train_loop._report = whole

    inputs = check(settings)
    with tracking.tracked_run(settings) as run_id:
        described = build_trainer(inputs, cluster[1].plan, run_id)
        described.train_loop_per_worker = dies_once
        result = fit(described)
        again = conclude(inputs, result, run_id, 0)
    assert marker.exists()
    assert len(again["history"]) == EPOCHS
    for one, other in zip(run["history"], again["history"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert again["version"] == run["version"] + 1


@pytest.mark.long
def test_a_loss_that_is_no_number_ends_the_training(cluster, settings):
    wild = settings.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(Exception) as error:
        train(check(wild), cluster[1])
    cause = user_cause(error.value)
    assert cause is not None and cause.exit_code == 4
    assert "no longer a number" in str(cause) and "learning_rate" in str(cause)
    client = tracking.open_tracking(settings.tracking)
    experiments = [e.experiment_id for e in client.search_experiments()]
    last = client.search_runs(experiments, order_by=["start_time DESC"])[0]
    assert last.info.status == "FAILED"


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 4])
def test_other_numbers_of_workers_agree(run, cluster, settings, workers):
    """The same rows a step: what differs is which ones, and the loss by a few per cent.

    A step of one worker has 64 rows here, of four 16 each.
    """
    chosen = {"train_workers": workers, "train_cpus": 0.25}
    chosen |= {"train_batch_size": 64 // workers, "dropout": 0.0}
    other = settings.model_copy(update=chosen)
    plan = plan_workers(live_nodes(), other)
    again = train(check(other), dataclasses.replace(cluster[1], plan=plan))
    assert again["counts"] == run["counts"]
    loss = again["history"][-1]["val_loss"]
    assert loss == pytest.approx(run["history"][-1]["val_loss"], rel=0.1)


def test_rows_that_do_not_fit_are_streamed_to_the_same_end(
    run, cluster, settings, monkeypatch
):
    vector = 4 * read_contents(settings).dimension
    monkeypatch.setattr(trainer, "SHARD_BYTES", 20 * vector)  # of 50 rows a worker
    again = train(check(settings), cluster[1])
    assert again["counts"] == run["counts"]
    loss = again["history"][-1]["val_loss"]
    assert loss == pytest.approx(run["history"][-1]["val_loss"], rel=0.1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"val": 0}, "the split val has no images"),
        ({"classes": ("akita",)}, "a classifier needs at least two classes"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    cluster, settings, tmp_path, sizes, message
):
    other = settings.model_copy(update={"storage": str(tmp_path)})
    write_embeddings(other, **sizes)
    with pytest.raises(DataError, match=message):
        train(check(other), cluster[1])


def test_without_embeddings_the_notebook_is_named(cluster, settings, tmp_path):
    other = settings.model_copy(update={"storage": str(tmp_path)})
    with pytest.raises(StorageError, match="03_embedding"):
        train(check(other), cluster[1])


def test_workers_that_do_not_fit_are_refused_at_once(cluster, settings):
    many = settings.model_copy(update={"train_workers": 50, "train_cpus": 1})
    plan = plan_workers(live_nodes(), many)
    with pytest.raises(ClusterError, match="50 workers of 1 CPU"):
        train(check(many), dataclasses.replace(cluster[1], plan=plan))
