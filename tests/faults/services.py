"""Cases: stages before their time, MLflow, the champion's files, ports, load tests."""

import functools
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from doggos_helpers.artefacts import read_json, write_json
from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.evaluate.prediction import IS_COPY, read_predictions
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import LABELS, WEIGHTS, Classifier, load, save
from doggos_helpers.train.registry import register
from doggos_helpers.train.tracking import open_tracking, tracked_run
from tests.faults.case import Case, Outcome, Place
from tests.faults.hub import no_hub, silent_hub
from tests.synthetic import CLASSES, write_embeddings
from tools.local_cluster import free_ports

AREA = "Services"
ANSWER_S, SILENCE_S = 3, 25
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin exclusive")
print("held", flush=True)
sys.stdin.read()
"""
Provoke = Callable[[Place], Sequence[str]]


# --- what a case needs ----------------------------------------------------------


def settings_of(place: Place) -> Settings:
    return Settings(
        storage=str(place.storage),
        tracking_uri=place.environment["DOGGOS_TRACKING_URI"],
        dataset=place.environment.get("DOGGOS_DATASET", "sample"),
    )


def embedded(place: Place) -> Settings:
    """Write an embeddings table as if the sample's CLIP had made it."""
    settings = settings_of(place)
    write_embeddings(settings)
    run = settings.embeddings_dir / "run.json"
    record = read_json(run, "03_embedding")
    record["encoder"]["model"] = model_fingerprint(settings.model)
    write_json(run, record)
    return settings


def classifier(place: Place, encoder: str = "") -> Path:
    """Save a classifier that fits the embeddings, whatever it has learnt."""
    about = {
        "fingerprint": "synthetic",
        "encoder": encoder or model_fingerprint("sample"),
    }
    about |= {"val_loss": 0.1, "epoch": 1}
    folder = place.folder / "classifier"
    save(Classifier(16, 8, len(CLASSES)), folder, CLASSES, **about)
    return folder


def champion(place: Place) -> Path:
    """Register such a classifier, and return the champion's folder."""
    settings = embedded(place)
    database(place)
    with tracked_run(settings) as run_id:
        return register(settings, run_id, classifier(place)).folder


def database_file(place: Place) -> Path:
    return Path(place.environment["DOGGOS_TRACKING_URI"].removeprefix("sqlite:///"))


@functools.cache
def empty_database() -> bytes:
    """Let MLflow make a database: once, for it takes seconds."""
    uri = os.environ["DOGGOS_TRACKING_URI"] + ".empty"  # of the tests' session
    open_tracking(uri)
    return Path(uri.removeprefix("sqlite:///")).read_bytes()


def database(place: Place) -> Path:
    """Put an MLflow database where an earlier training would have left it."""
    database_file(place).write_bytes(empty_database())
    return database_file(place)


def within(seconds: float) -> Callable[[Place, Outcome], None]:
    def check(place: Place, outcome: Outcome) -> None:
        assert outcome.seconds < seconds, outcome.seconds

    return check


# --- provoked -------------------------------------------------------------------


def command(*words: str) -> Provoke:
    return lambda place: words


def no_champion(stage: str) -> Provoke:
    def provoke(place: Place) -> Sequence[str]:
        embedded(place)
        database(place)
        return [stage, f"--port={free_ports(1)[0]}"]

    return provoke


@functools.cache
def holder(file: str) -> "subprocess.Popen[str]":
    """Hold a database locked in another process, until ours lets its input go."""
    arguments = [sys.executable, "-c", HOLD, file]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(arguments, text=True, **pipes)  # type: ignore
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def locked(place: Place) -> Sequence[str]:
    embedded(place)
    holder(str(database(place)))
    return ["train"]


def let_go(place: Place, outcome: Outcome) -> None:
    holder(str(database_file(place))).communicate()
    within(SILENCE_S)(place, outcome)
    assert not settings_of(place).training_dir.exists()


def other_version(place: Place) -> Sequence[str]:
    embedded(place)
    with sqlite3.connect(database(place)) as connection:
        connection.execute("update alembic_version set version_num = '5a1e0fa57e41'")
    connection.close()
    return ["train"]


def no_database(place: Place) -> Sequence[str]:
    embedded(place)
    database_file(place).write_text("This is a text file. " * 100)
    return ["train"]


def tracking_at(address: Callable[[], str]) -> Provoke:
    def provoke(place: Place) -> Sequence[str]:
        embedded(place)
        return ["train", f"--tracking-uri={address()}"]

    return provoke


def class_missing(place: Place) -> Sequence[str]:
    file = champion(place) / LABELS
    labels = json.loads(file.read_text())
    labels["classes"].remove("pug")
    file.write_text(json.dumps(labels))
    return ["evaluate"]


def served_class_missing(place: Place) -> Sequence[str]:
    embedded(place)
    file = classifier(place) / LABELS
    labels = json.loads(file.read_text())
    labels["classes"].remove("pug")
    file.write_text(json.dumps(labels))
    return ["serve", f"--champion={file.parent}", f"--port={free_ports(1)[0]}"]


def shuffled_labels(place: Place) -> Sequence[str]:
    file = champion(place) / LABELS
    labels = json.loads(file.read_text())
    labels["classes"].reverse()
    file.write_text(json.dumps(labels))
    return ["evaluate"]


def weights_cut(place: Place) -> Sequence[str]:
    file = champion(place) / WEIGHTS
    file.write_bytes(file.read_bytes()[:100])
    return ["evaluate"]


def picture_in_two_splits(place: Place) -> Sequence[str]:
    """Put a picture into train, smaller into val, and encoded anew into test."""
    place.environment["DOGGOS_DATASET"] = str(place.folder / "dogs")
    champion(place)
    settings = settings_of(place)
    [file] = (settings.embeddings_dir / "table").rglob("*.parquet")
    table = pq.read_table(file).to_pandas()
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)
    first = {split: rows.index[0] for split, rows in table.groupby("split")}
    for split, size in (
        ("train", (320, 240)),
        ("val", (160, 120)),
        ("test", (320, 240)),
    ):
        path = Path(settings.dataset) / table.path[first[split]]
        path.parent.mkdir(parents=True)
        picture.resize(size).save(path, quality=60)
        table.at[first[split], "embedding"] = table.embedding[first["train"]]
    table.to_parquet(file)
    return ["evaluate"]


def logged(place: Place, outcome: Outcome) -> None:
    """The pairs are in the table, and MLflow has the figures."""
    settings = settings_of(place)
    copies = read_predictions(settings, IS_COPY)
    assert {path.partition("/")[0] for path in copies["path"]} == {"val", "test"}
    assert len(set(copies["path"]) | set(copies["copy_of"])) == 3


def weights_without_numbers(place: Place) -> Sequence[str]:
    folder = champion(place)
    model, classes = load(folder)
    with torch.no_grad():
        model.layers[0].weight[0] = float("nan")
    about = json.loads((folder / LABELS).read_text())
    known = ("encoder", "fingerprint", "val_loss", "epoch")
    save(model, folder, classes, **{key: about[key] for key in known})
    return ["evaluate"]


def no_way_back(place: Place) -> Sequence[str]:
    champion(place)
    return ["train", "--rollback"]


def champion_gone(place: Place) -> Sequence[str]:
    folder = champion(place)
    for file in folder.iterdir():
        file.unlink()
    return ["serve", f"--port={free_ports(1)[0]}"]


def other_weights(place: Place) -> Sequence[str]:
    embedded(place)
    folder = classifier(place, encoder="other")
    return ["serve", f"--champion={folder}", f"--port={free_ports(1)[0]}"]


def version_unknown(place: Place) -> Sequence[str]:
    champion(place)
    return ["serve", "--promote=7"]


def port_taken(place: Place) -> Sequence[str]:
    return ["serve", f"--port={silent_hub().rpartition(':')[2]}"]


def images(place: Place) -> None:
    """Put a file in the place of each test image; the load test only sends them."""
    place.environment["DOGGOS_DATASET"] = str(place.folder / "dogs")
    settings = embedded(place)
    for path in read_embeddings(settings, "test").paths:
        file = Path(settings.dataset) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image")


def load_on(address: Callable[[], str]) -> Provoke:
    def provoke(place: Place) -> Sequence[str]:
        images(place)
        return ["loadtest", f"--url={address()}"]

    return provoke


def image_gone(place: Place) -> Sequence[str]:
    images(place)
    next((place.folder / "dogs" / "test").rglob("*.jpg")).unlink()
    return ["loadtest"]


def wild(place: Place) -> Sequence[str]:
    embedded(place)
    return ["train", "--learning-rate=1e30", "--epochs=2"]


def nothing_registered(place: Place, outcome: Outcome) -> None:
    """Neither a model nor a record, and the run of MLflow is closed."""
    settings = settings_of(place)
    assert not (settings.training_dir / "run.json").exists()
    client = open_tracking(settings.tracking)
    assert not client.search_registered_models()
    experiments = [e.experiment_id for e in client.search_experiments()]
    assert [r.info.status for r in client.search_runs(experiments)] == ["FAILED"]


EMBED_FIRST = "Run notebook 03_embedding or `python -m doggos_helpers.embed` first"
TRAIN_FIRST = "Run notebook 04_training or `python -m doggos_helpers.train` first"
TRAIN_ONE = "Train one: notebook 04_training or `python -m doggos_helpers.train`"
CHECK_TRACKING = "Check tracking_uri (DOGGOS_TRACKING_URI, MLFLOW_TRACKING_URI)"
START_SERVICE = "Start the service: `python -m doggos_helpers.serve`, or check the URL"


def before(stage: str) -> Case:
    return Case(
        AREA,
        f"{stage} before embed",
        command(stage, f"--port={free_ports(1)[0]}"),
        5,
        "no such artefact yet",
        f"`{stage}` needs what an earlier stage makes",
        EMBED_FIRST,
        after=within(ANSWER_S),
    )


CASES: tuple[Case, ...] = (
    *(before(stage) for stage in ("train", "evaluate", "serve", "loadtest")),
    *(
        Case(
            AREA,
            f"{stage} before train",
            no_champion(stage),
            5,
            "no champion is registered yet",
            f"`{stage}` needs what `train` makes of this data set with this model",
            TRAIN_FIRST,
            after=within(ANSWER_S),
        )
        for stage in ("evaluate", "serve")
    ),
    Case(
        AREA,
        "MLflow database locked",
        locked,
        5,
        "MLflow can't be used (database is locked)",
        "another program has written to it for more than ten seconds",
        CHECK_TRACKING,
        after=let_go,
    ),
    Case(
        AREA,
        "MLflow database of another version",
        other_version,
        5,
        "MLflow can't be used (Detected out-of-date database schema",
        "an older or newer MLflow made it",
        "run `mlflow db upgrade",
    ),
    Case(
        AREA,
        "MLflow database is no database",
        no_database,
        5,
        "file is not a database",
        "the file is of another program",
        CHECK_TRACKING,
    ),
    Case(
        AREA,
        "MLflow server is off",
        tracking_at(no_hub),
        5,
        "MLflow can't be used ([Errno 111] Connection refused)",
        "nothing listens at the address",
        CHECK_TRACKING,
        after=within(ANSWER_S),
    ),
    Case(
        AREA,
        "MLflow server says nothing",
        tracking_at(silent_hub),
        5,
        "MLflow can't be used (timed out)",
        "the server hangs, or a firewall drops what is sent to it",
        CHECK_TRACKING,
        after=within(SILENCE_S),
    ),
    Case(
        AREA,
        "champion with a class missing",
        class_missing,
        4,
        "the champion doesn't know the classes pug",
        "its label mapping was edited, or images of a new class were added",
        "Train on these embeddings",
    ),
    Case(
        AREA,
        "champion served with a class missing",
        served_class_missing,
        4,
        "the weights are not of a classifier of 16 inputs and 5 labels",
        "the label mapping was edited, or the two files are of two trainings",
        "Keep both files of one training together, or train again",
    ),
    Case(
        AREA,
        "champion with labels in another order",
        shuffled_labels,
        4,
        "the labels are not sorted, or not unique",
        "the label mapping was edited",
        TRAIN_ONE,
    ),
    Case(
        AREA,
        "champion with weights cut short",
        weights_cut,
        4,
        "no classifier can be read",
        "the file was copied in part, or the disk is damaged",
        TRAIN_ONE,
    ),
    Case(
        AREA,
        "champion with weights that are not numbers",
        weights_without_numbers,
        4,
        "some of the weights are not numbers",
        "a training diverged, or the file is damaged; its probabilities would be NaN",
        TRAIN_ONE,
    ),
    Case(
        AREA,
        "no champion to go back to",
        no_way_back,
        4,
        "there was no champion before the present one",
        "`train --rollback` takes the champion before, and there was only one",
        "Promote a version by its number",
    ),
    Case(
        AREA,
        "champion without its files",
        champion_gone,
        5,
        "the champion's folder is gone",
        "the storage was cleared or moved after the training",
        TRAIN_FIRST,
    ),
    Case(
        AREA,
        "champion of other CLIP weights",
        other_weights,
        4,
        "the champion learnt from embeddings of other CLIP weights",
        "the model was changed, and the embeddings made again, but not the classifier",
        "Train on these embeddings",
    ),
    Case(
        AREA,
        "promotion of a version that is not there",
        version_unknown,
        4,
        "there is no version 7",
        "the registry has other versions of this data set and model",
        "Choose one of [1]",
    ),
    Case(
        AREA,
        "port in use",
        port_taken,
        7,
        "can't listen there (Address already in use)",
        "another program listens on the port",
        "End what listens on it, or set another port (DOGGOS_PORT)",
        after=within(ANSWER_S),
    ),
    Case(
        AREA,
        "host of another machine",
        command("serve", "--host=203.0.113.9"),
        7,
        "can't listen there (Cannot assign requested address)",
        "`host` is not an address of the machine that serves",
        "Set host to an address of this machine (DOGGOS_HOST)",
        after=within(ANSWER_S),
    ),
    Case(
        AREA,
        "load test without a service",
        load_on(no_hub),
        7,
        "nothing answers ([Errno 111] Connection refused)",
        "the service isn't started, or listens elsewhere",
        START_SERVICE,
        after=within(ANSWER_S),
    ),
    Case(
        AREA,
        "load test of a silent service",
        load_on(silent_hub),
        7,
        "nothing answers within 10 s",
        "the service hangs, or something else listens there",
        START_SERVICE,
        after=within(SILENCE_S),
        long=True,
    ),
    Case(
        AREA,
        "load test of no URL",
        load_on(lambda: "dogs"),
        7,
        "nothing answers (Request URL is missing an 'http://' or 'https://' protocol",
        "`--url` lacks http:// or https://",
        START_SERVICE,
    ),
    Case(
        AREA,
        "load test of images that are gone",
        image_gone,
        3,
        "an embedded image is gone",
        "images were removed after they were embedded",
        "Run notebook 03_embedding again: the data set changed",
    ),
    Case(
        "Data sets",
        "a picture in two splits",
        picture_in_two_splits,
        0,
        "2 images have a copy in another split, which flatters the evaluation",
        "The same picture is in two splits, maybe cut, smaller or encoded anew;"
        " `copy_of` in `predictions.parquet` names it.",
        "Delete one of them, or move both into one split",
        printed_fix=False,
        cluster=True,
        after=logged,
        long=True,
    ),
    Case(
        AREA,
        "training that diverges",
        wild,
        4,
        "the validation loss is no longer a number",
        "the learning rate is too large",
        "Set a smaller one (DOGGOS_LEARNING_RATE)",
        cluster=True,
        after=nothing_registered,
        long=True,
    ),
)
