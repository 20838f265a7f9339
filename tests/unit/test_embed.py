"""Reading images, and what the table keeps of a manifest: without Ray."""

import io
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.cluster.plan import Node, plan_workers
from doggos_helpers.data.files import write_parquet
from doggos_helpers.data.images import Preprocessing
from doggos_helpers.data.listing import SCHEMA
from doggos_helpers.data.manifest import part_file
from doggos_helpers.embed import pipeline
from doggos_helpers.embed.settle import settle_one
from doggos_helpers.errors import DataError
from doggos_helpers.settings import Settings

SMALL = Preprocessing(shortest_edge=8, crop=(8, 8), resample=3)
PATHS = np.array([f"{i}.jpg" for i in range(24)], object)


def red() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def read(monkeypatch, read_bytes) -> dict[str, np.ndarray]:
    monkeypatch.setattr(pipeline, "read_bytes", read_bytes)
    return pipeline.read_and_decode({"path": PATHS}, "s3://slow", SMALL)


def test_reads_overlap(monkeypatch):
    """No read of eight ends before all of them have begun."""
    together, data = threading.Barrier(8, timeout=30), red()

    def slow(root, path):
        together.wait()
        return data

    batch = read(monkeypatch, slow)
    assert batch["pixels"].shape == (24, 8, 8, 3) and not any(batch["reason"])
    assert (batch["pixels"][:, :, :, 0] > 150).all()


def test_rows_keep_their_image_and_their_reason(monkeypatch):
    def numbered(root, path):
        number = int(path.partition(".")[0])
        if number % 5 == 0:
            return b"no image"
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9), (10 * number, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    batch = read(monkeypatch, numbered)
    for number, (pixels, reason) in enumerate(
        zip(batch["pixels"], batch["reason"], strict=True)
    ):
        bad = number % 5 == 0
        assert (reason == "not an image") == bad and (reason == "") != bad
        assert (pixels[:, :, 0] == (0 if bad else 10 * number)).all()


def test_a_store_that_fails_is_an_error_and_not_a_bad_image(monkeypatch):
    def failing(root, path):
        if path == "7.jpg":
            raise DataError("the store of the images fails (503)", path)
        return red()

    with pytest.raises(DataError, match="503"):
        read(monkeypatch, failing)


# --- settling ------------------------------------------------------------------


def rows(*names: str, modified: int = 1, label: str = "pug") -> pa.Table:
    count = len(names)
    columns = [names, [label] * count, ["train"] * count, [9] * count]
    return pa.table([*columns, [modified] * count], SCHEMA)


def stored(of: pa.Table, reason: str | None = None, vector: float = 1) -> pa.Table:
    vectors = [None if reason else [vector] for _ in range(len(of))]
    of = of.append_column("embedding", pa.array(vectors, pa.list_(pa.float32())))
    of = of.append_column("reason", pa.array([reason] * len(of), pa.string()))
    return of.append_column("node", [["here"] * len(of)])


@pytest.fixture
def place(tmp_path):
    """Write a manifest of a.jpg to d.jpg; give its folder, the table's, and left's."""
    write_parquet(rows("a", "b", "c", "d"), str(tmp_path / "wanted"), part_file(0))
    return [str(tmp_path / name) for name in ("wanted", "table", "left")]


def settled(place, *files: pa.Table, retry: bool = False):
    """Settle a table of these files; return what is counted, kept and left."""
    for number, file in enumerate(files):
        write_parquet(file, f"{place[1]}/00000", f"{number}.parquet")
    counted = settle_one(*place, 0, retry)
    kept = [pq.read_table(p)["path"].to_pylist() for p in table_files(place)]
    left = pq.read_table(f"{place[2]}/{part_file(0)}")
    assert left.schema.equals(SCHEMA)
    return counted, kept, left["path"].to_pylist()


def table_files(place):
    return sorted(Path(place[1]).rglob("*.parquet"))


def test_an_empty_table_lacks_everything(place):
    (reasons, _, _), kept, left = settled(place)
    assert (reasons, kept, left) == ({}, [], ["a", "b", "c", "d"])


def test_doubled_changed_deleted_and_relabelled_rows_go(place):
    """Only the files that they are in are written again."""
    good, again = stored(rows("a", "b")), stored(rows("b"), vector=2)
    gone = stored(rows("x", "y"))
    changed = stored(rows("c", modified=2))
    relabelled = stored(rows("d", label="corgi"))
    mixed = pa.concat_tables([changed, relabelled, stored(rows("d"))])
    (reasons, nodes, _), kept, left = settled(place, good, again, gone, mixed)
    assert reasons == {"": 3} and nodes == {"here": 3}
    assert sorted(path for file in kept for path in file) == ["a", "b", "d"]
    assert left == ["c"]


def test_whole_files_are_left_alone(place):
    settled(place, stored(rows("a", "b")), stored(rows("c", "x")))
    stamps = [path.stat().st_mtime_ns for path in table_files(place)]
    (_, _, lost), kept, left = settled(place)
    assert (kept, left) == ([["a", "b"], ["c"]], ["d"]) and not lost
    assert [path.stat().st_mtime_ns for path in table_files(place)] == stamps


@pytest.mark.parametrize("retry", [True, False])
def test_unread_files_are_tried_again_and_bad_ones_are_not(place, retry):
    unread = stored(rows("a"), "unreadable: permission denied")
    bad = stored(rows("b"), "empty file")
    files = unread, bad, stored(rows("c"))
    (reasons, _, _), _, left = settled(place, *files, retry=retry)
    assert left == (["a", "d"] if retry else ["d"])
    kept = {"": 1, "empty file": 1}
    kept |= {} if retry else {"unreadable: permission denied": 1}
    assert reasons == kept


@pytest.mark.parametrize("how", ["cut", "empty", "garbled", "without a column"])
def test_files_that_cannot_be_read_are_dropped_and_named(place, how):
    write_parquet(stored(rows("a", "b")), f"{place[1]}/00000", "0.parquet")
    (file,) = table_files(place)
    data = file.read_bytes()
    if how == "without a column":
        pq.write_table(pq.read_table(file).drop_columns(["node"]), file)
    else:
        footer = 8 + int.from_bytes(data[-8:-4], "little")
        garbled = data[:-footer] + bytes(footer - 8) + data[-8:]
        file.write_bytes({"cut": data[:-9], "empty": b"", "garbled": garbled}[how])
    (_, _, lost), kept, left = settled(place)
    assert (kept, left) == ([], ["a", "b", "c", "d"])
    (sentence,) = lost
    assert f"The rows of {file} are computed again: " in sentence


@pytest.mark.parametrize(("exported", "seen"), [(None, "PASSIVE"), ("ACTIVE",) * 2])
def test_threads_sleep_while_they_wait_unless_told_otherwise(
    exported, seen, monkeypatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if exported:
        monkeypatch.setenv("OMP_WAIT_POLICY", exported)
    loaded = []
    monkeypatch.setattr(
        pipeline, "ClipEncoder", lambda *_: loaded.append(os.environ["OMP_WAIT_POLICY"])
    )
    monkeypatch.setattr(pipeline, "this_node", lambda: "here")
    pipeline.Embedder(Settings(), plan_workers([Node("here", 2)], Settings()))
    assert loaded == [seen]
    assert os.environ.get("OMP_WAIT_POLICY") == exported
