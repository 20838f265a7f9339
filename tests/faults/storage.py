"""Cases: storage that can't be written, or holds what can't be used."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from doggos_helpers.artefacts import write_json, write_run
from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.data.manifest import build_manifest
from doggos_helpers.embed.table import find_table
from doggos_helpers.settings import Settings
from tests.faults.case import Case, Outcome, Place
from tests.faults.datasets import EACH, counted, dogs, embed

AREA = "Storage"
SMALL = "size=96k"
MANY_BAD = 40
HOLD = """
import sys, time
from doggos_helpers.settings import Settings
from doggos_helpers.artefacts import alone
with alone(Settings(dataset=sys.argv[1]), "embed"):
    print("holding", flush=True)
    time.sleep(120)
"""


def embedded(place: Place, root: Path | None = None) -> Settings:
    """Lay out dogs and a table of their embeddings, as a finished `embed` leaves it."""
    root = root or dogs(place.folder / "dogs")
    settings = Settings(dataset=str(root), storage=str(place.storage))
    manifest = build_manifest(settings)
    count = manifest.rows
    vectors = np.random.default_rng(0).normal(size=(count, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = manifest.table
    lists = pa.array(vectors.tolist(), pa.list_(pa.float32()))
    table = table.append_column("embedding", lists)
    table = table.append_column("reason", pa.nulls(count, pa.string()))
    folder = settings.embeddings_dir
    table = table.append_column("node", pa.array(["somewhere"] * count))
    (folder / "table" / "00000").mkdir(parents=True)
    pq.write_table(table, folder / "table" / "00000" / "embeddings.parquet")
    model = model_fingerprint("sample")
    encoder = {"model": model, "dtype": "float32", "parts": 1}
    write_json(folder / "encoder.json", encoder)
    counts = {"manifest": count, "embedded": count, "errors": 0, "computed": count}
    write_run(
        folder,
        "embed",
        settings,
        0,
        fingerprint=manifest.fingerprint,
        counts=counts,
        nodes={},
        encoder=encoder,
        classes=list(manifest.classes),
        reasons={},
    )
    return settings


def _truncated(place: Place) -> Settings:
    settings = embedded(place)
    file = Path(find_table(settings), "00000", "embeddings.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    return settings


def _truncated_and_searched(place: Place) -> Sequence[str]:
    settings = _truncated(place)
    return ["search", f"--dataset={settings.dataset}", "--text=a dog"]


def _truncated_and_embedded(place: Place) -> Sequence[str]:
    return embed(_truncated(place).dataset)


def _record_edited(place: Place) -> Sequence[str]:
    settings = embedded(place)
    file = settings.embeddings_dir / "run.json"
    record = json.loads(file.read_text())
    del record["encoder"]
    file.write_text(json.dumps(record))
    return ["train", f"--dataset={settings.dataset}"]


def _older(place: Place) -> Sequence[str]:
    settings = embedded(place)
    file = Path(find_table(settings), "00000", "embeddings.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["node"]), file)
    return embed(settings.dataset)


def _another_embeds(place: Place) -> Sequence[str]:
    root = dogs(place.folder / "dogs")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        env={**os.environ, **place.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    (place.folder / "pid").write_text(str(holder.pid))
    assert holder.stdout and holder.stdout.readline() == "holding\n"
    return [*embed(root), "--wait-for-cluster-s", "1"]


def _end_the_other(place: Place, outcome: Outcome) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        other = psutil.Process(int((place.folder / "pid").read_text()))
        other.kill()
        other.wait(10)
    assert not list(place.storage.rglob("table/**/*.parquet"))


def _full(place: Place) -> Sequence[str]:
    """Mount a small disk as storage; it stays until the machine's end otherwise."""
    root = dogs(place.folder / "dogs", each=120)
    place.storage.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", SMALL, "tmpfs", str(place.storage)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk: {mounted.stderr.strip()}")
    return embed(root)


def _unmount(place: Place, outcome: Outcome) -> None:
    try:
        _whole_or_nothing(place, outcome)
    finally:
        subprocess.run(["umount", str(place.storage)], check=True)


def _in_a_file(place: Place) -> Sequence[str]:
    (place.folder / "file").touch()
    place.environment["DOGGOS_STORAGE"] = str(place.folder / "file" / "storage")
    return embed(dogs(place.folder / "dogs"))


def _not_allowed(place: Place) -> Sequence[str]:
    if not Path("/sys/kernel").is_dir():
        pytest.skip("no /sys, in which nobody may make a folder")
    place.environment["DOGGOS_STORAGE"] = "/sys/kernel/doggos"
    return embed(dogs(place.folder / "dogs"))


def _mostly_bad(place: Place) -> Sequence[str]:
    root = dogs(place.folder / "dogs")
    for i in range(4 * MANY_BAD):
        (root / "train" / "corgi" / f"bad{i}.jpg").write_text("<html>404</html>")
    return embed(root)


def _whole_or_nothing(place: Place, outcome: Outcome) -> None:
    """No record of a run, and files of the table that a later run can go on from."""
    assert not list(place.storage.rglob("run.json"))
    for file in place.storage.rglob("table/**/*.parquet"):
        assert pq.read_table(file).num_rows, "a later run would take it for whole"


def _in_time(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < 3, f"{outcome.seconds:.1f} s before Ray starts"


CASES = (
    Case(
        AREA,
        "lies in a file",
        _in_a_file,
        5,
        "can't write to the storage (not a directory): ",
        "A part of the path is a file.",
        "choose another storage (DOGGOS_STORAGE)",
        after=_in_time,
    ),
    Case(
        AREA,
        "may not be written",
        _not_allowed,
        5,
        "can't write to the storage (operation not permitted): ",
        "The folder belongs to somebody else, or the disk is mounted read-only.",
        "mend its permissions, or choose another storage (DOGGOS_STORAGE)",
        after=_in_time,
    ),
    Case(
        AREA,
        "is full",
        _full,
        5,
        "can't write the embeddings (no space left on device): ",
        "The disk is full; on a cluster it may be another node's.",
        "Free space there",
        cluster=True,
        after=_unmount,
    ),
    Case(
        AREA,
        "holds no embeddings yet",
        lambda place: ["search", f"--dataset={dogs(place.folder / 'd')}", "--text=dog"],
        5,
        "no such artefact yet: ",
        "Nothing was embedded for this data set and model; each pair has its folder.",
        "Run notebook 03_embedding or `python -m doggos_helpers.embed` first",
        after=_in_time,
    ),
    Case(
        AREA,
        "embeddings cut short, then searched",
        _truncated_and_searched,
        5,
        "can't read the embeddings (",
        "Somebody copied or edited the Parquet file, or the disk lost a part of it.",
        "Run notebook 03_embedding again: it computes what can't be read",
        after=_in_time,
    ),
    Case(
        AREA,
        "embeddings cut short, then embedded again",
        _truncated_and_embedded,
        0,
        "embeddings.parquet are computed again: ",
        "The Parquet file can't be read; nothing in it can be kept.",
        "Nothing: the rows were computed again",
        printed_fix=False,
        cluster=True,
        after=counted(6 * EACH),
        long=True,
    ),
    Case(
        AREA,
        "embeddings of an older version",
        _older,
        0,
        "are computed again: No match for FieldRef.Name(node) in ",
        "An earlier version of this package wrote the table.",
        "Nothing: the rows were computed again",
        printed_fix=False,
        cluster=True,
        after=counted(6 * EACH),
        long=True,
    ),
    Case(
        AREA,
        "record of the embedding edited",
        _record_edited,
        5,
        "not the record of an embedding run: ",
        "Somebody edited run.json beside the embeddings, or it is of something else.",
        "Delete it and run notebook 03_embedding",
        after=_in_time,
    ),
    Case(
        AREA,
        "another command writes here",
        _another_embeds,
        5,
        "another embed is writing here: ",
        "A command or notebook embeds the same data set into the same storage, and"
        " goes on for longer than wait_for_cluster_s.",
        "Wait until it ends, or choose another storage (DOGGOS_STORAGE)",
        cluster=True,
        after=_end_the_other,
    ),
    Case(
        "Files",
        "most images are bad",
        _mostly_bad,
        3,
        "images are bad, more than max_bad_share = 0.5: ",
        "The data set is not what it seems, such as a broken download; the first"
        " reasons are given. It stops early and keeps what is embedded.",
        "Mend the files or the dataset setting",
        cluster=True,
        after=_whole_or_nothing,
    ),
)
