"""Training on Ray, on synthetic embeddings."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from doggos_helpers.cluster.nodes import live_nodes
from doggos_helpers.cluster.plan import plan_workers
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import ClusterError, DataError, StorageError, user_cause
from doggos_helpers.train import registry, tracking
from doggos_helpers.train.classifier import describe, load, predict_probabilities
from doggos_helpers.train.stage import check, train
from doggos_helpers.train.sweep import SPACE, sweep
from tests.synthetic import CLASSES, write_embeddings

EPOCHS = 4
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


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


def again(cluster, settings, **changes):
    """Train once more, with other settings, and so with another plan."""
    other = settings.model_copy(update=changes)
    plan = plan_workers(live_nodes(), other)
    return train(check(other), dataclasses.replace(cluster[1], plan=plan))


def assert_alike(one, other, rel):
    """The same figures in each epoch of each candidate."""
    pairs = zip(one["history"], other["history"], strict=True)
    for mine, theirs in pairs:
        assert (mine["candidate"], mine["epoch"]) == (
            theirs["candidate"],
            theirs["epoch"],
        )
        got, expected = ([row[key] for key in FIGURES] for row in (mine, theirs))
        assert got == pytest.approx(expected, rel=rel)


def test_every_row_is_seen_and_none_is_dropped(run):
    # 101 training rows and 33 to validate for two workers: neither number is even.
    assert run["counts"] == {"train": 101, "train_seen": 101, "val": 33, "val_seen": 33}
    assert sum(run["nodes"].values()) == 101
    assert all(m["train_rows"] == 101 and m["val_rows"] == 33 for m in run["history"])


def test_a_linear_probe_and_a_network_learn_and_beat_chance(run):
    for name in ("linear", "network"):
        history = [m for m in run["history"] if m["candidate"] == name]
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
    best = run["best"]
    assert loss == pytest.approx(best["val_loss"], rel=1e-4)
    accuracy = (probabilities.argmax(axis=1) == right).mean()
    assert accuracy == pytest.approx(best["val_accuracy"])
    others = sorted(f.name for f in folder.parent.iterdir())
    assert others == ["linear", "network"] and folder.name == best["candidate"]
    assert {describe(folder.parent / n)["hidden_units"] for n in others} == {0, 256}


def test_mlflow_has_the_epochs_and_the_best(run, settings):
    client, own = tracking.open_tracking(settings.tracking), run["mlflow_run"]
    for name in ("linear", "network"):
        logged = client.get_metric_history(own, f"{name}/val_loss")
        expected = [m["val_loss"] for m in run["history"] if m["candidate"] == name]
        assert [m.value for m in logged] == expected
    found = client.get_run(own)
    assert found.data.metrics["best_val_loss"] == run["best"]["val_loss"]
    assert "system/cpu_utilization_percentage" in found.data.metrics
    told = {"seed": "0", "fingerprint": "synthetic", "encoder_model": "synthetic"}
    assert found.info.status == "FINISHED" and told.items() <= found.data.params.items()


def test_the_record_is_on_disk_and_no_pickle_can_run_code(run, settings):
    stored = json.loads((settings.training_dir / "run.json").read_text())
    assert stored == json.loads(json.dumps(run)) and stored["stage"] == "train"
    assert stored["fingerprint"] == "synthetic"
    files = [p for p in settings.training_dir.rglob("*") if p.is_file()]
    kinds = {p.suffix or p.name for p in files if not p.name.startswith(".")}
    # state.pt is read with weights_only.
    assert kinds == {".json", ".safetensors", ".pt", "MLmodel"}
    # Those with the lowest losses and the latest, which may be one of them.
    assert 2 <= len(list(settings.training_dir.glob("runs/*/checkpoint_*"))) <= 3


@pytest.mark.long
def test_the_same_seed_gives_the_same_result(run, cluster, settings):
    assert_alike(run, again(cluster, settings), rel=1e-6)


@pytest.mark.long
def test_one_worker_and_four_take_the_same_steps(cluster, settings):
    """All rows in one step of an epoch: the same sums, up to their order."""
    chosen = {"dropout": 0.0, "train_cpus": 0.25}
    one, four = (
        again(cluster, settings, train_workers=n, train_batch_size=128 // n, **chosen)
        for n in (1, 4)
    )
    assert one["counts"] == four["counts"]
    assert_alike(one, four, rel=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 4])
def test_other_numbers_of_workers_agree(run, cluster, settings, workers):
    """The same rows a step: what differs is which ones, and the loss by a few per cent.

    A step of one worker has 64 rows here, of four 16 each.
    """
    chosen = {"train_workers": workers, "train_cpus": 0.25, "dropout": 0.0}
    other = again(cluster, settings, **chosen, train_batch_size=64 // workers)
    assert other["counts"] == run["counts"]
    loss = other["best"]["val_loss"]
    assert loss == pytest.approx(run["best"]["val_loss"], rel=0.1)


@pytest.mark.long
def test_rows_that_do_not_fit_are_streamed_to_the_same_end(run, cluster, settings):
    room = 2 * 20 * 4 * 16 / 2**30  # for 20 rows, of 50 a worker
    other = again(cluster, settings, memory_per_worker=room)
    assert other["counts"] == run["counts"]
    loss = other["history"][-1]["val_loss"]
    assert loss == pytest.approx(run["history"][-1]["val_loss"], rel=0.1)


@pytest.mark.long
def test_it_stops_early_where_nothing_gets_better(cluster, settings):
    """A rate too small to change a digit of the loss, after the first epoch's."""
    patient = {"patience": 2, "learning_rate": 1e-12, "epochs": 9, "hidden_units": 0}
    stopped = again(cluster, settings, **patient)
    assert len(stopped["history"]) < 9
    assert {m["candidate"] for m in stopped["history"]} == {"linear"}


@pytest.mark.long
def test_a_loss_that_is_no_number_ends_the_training(cluster, settings):
    with pytest.raises(Exception) as error:
        again(cluster, settings, learning_rate=1e30)
    cause = user_cause(error.value)
    assert cause is not None and cause.exit_code == 4
    assert "no longer a number" in str(cause) and "learning_rate" in str(cause)
    client = tracking.open_tracking(settings.tracking)
    experiments = [e.experiment_id for e in client.search_experiments()]
    last = client.search_runs(experiments, order_by=["start_time DESC"])[0]
    assert last.info.status == "FAILED"


def test_a_sweep_finds_settings_and_leaves_child_runs(cluster, settings):
    inputs, trials = sweep(check(settings), cluster[1], trials=3)
    assert sorted(set(trials["trial"])) == [1, 2, 3]
    assert set(SPACE) < set(trials.columns) and trials["epoch"].max() == EPOCHS
    winner = trials.loc[trials["val_loss"].idxmin()]
    last = trials.groupby("trial").last()
    for name in SPACE:
        assert getattr(inputs.settings, name) == winner[name]
    assert inputs.settings.epochs == settings.epochs
    client = tracking.open_tracking(settings.tracking)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments)
    [parent] = [r for r in runs if r.data.params.get("sweep") == "3"]
    mine = [
        r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(mine) == 3 and {r.info.status for r in mine} == {"FINISHED"}
    logged = {round(r.data.metrics["val_loss"], 6) for r in mine}
    assert logged == {round(loss, 6) for loss in last["val_loss"]}
    assert not list((settings.training_dir / "sweeps").glob("*")), "pickles are left"


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
