"""The table of embeddings: one row a manifest path, with an embedding or a reason."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from doggos_helpers.artefacts import missing, read_json
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

EMBEDDING, REASON = "embedding", "reason"
COLUMNS = [PATH, CLASS, SPLIT, EMBEDDING]
GOOD = pc.field(REASON).is_null()
LABELLED = GOOD & (pc.field(CLASS) != "")  # classifiers learn and are measured on these
READERS = 16  # threads that wait for files
ALL = 2**31 - 1  # rows: more than fit into memory


def table_folder(settings: Settings) -> str:
    """Name the folder of the table's Parquet files: one row a manifest path."""
    return str(settings.embeddings_dir / "table")


@dataclass(frozen=True)
class Embeddings:
    """The good rows of the table, in path order, as arrays of the same length n.

    `vectors` is float32 [n, d] with rows of length one; the others are str [n].
    """

    paths: np.ndarray
    classes: np.ndarray
    splits: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        """Return n."""
        return len(self.paths)

    def select(self, mask: np.ndarray) -> "Embeddings":
        """Return the rows where `mask` (bool [n], or indices) holds."""
        return Embeddings(*(column[mask] for column in vars(self).values()))


def find_table(settings: Settings) -> str:
    """Return the folder of the table's Parquet files.

    Raises:
        StorageError: It isn't there yet.
    """
    folder = settings.embeddings_dir / "table"
    if not (folder.is_dir() and (settings.embeddings_dir / "run.json").is_file()):
        raise missing(folder, "03_embedding")
    return str(folder)


def read_record(settings: Settings) -> dict[str, Any]:
    """Read what `embed` recorded of its run, the `run.json` beside the table.

    Raises:
        StorageError: It isn't there, or lacks the fingerprint or the encoder.
    """
    file = settings.embeddings_dir / "run.json"
    record = read_json(file, "03_embedding")
    try:
        record["fingerprint"], record["encoder"]["model"]
    except (KeyError, TypeError):
        fix = "Delete it and run notebook 03_embedding: rows that are there are kept"
        what = "not the record of an embedding run"
        raise StorageError(what, str(file), fix) from None
    return record


@dataclass(frozen=True)
class Contents:
    """What the table holds of images with a class: counts, and no rows.

    `files` are its files in order, with the rows of each split; `labels` counts rows
    by split and class; `dimension` is that of the embeddings.
    """

    folder: str
    dimension: int
    files: dict[str, Counter[str]]
    labels: Counter[tuple[str, str]]

    def rows(self, split: str) -> int:
        """Count the rows of a split."""
        return sum(count[split] for count in self.files.values())


def read_contents(settings: Settings) -> Contents:
    """Count what the table holds, file by file, without reading its vectors.

    Raises:
        StorageError: There is no table yet, or it can't be read.
    """
    keys = ["__filename", SPLIT, CLASS]
    files: dict[str, Counter[str]] = defaultdict(Counter)
    labels: Counter[tuple[str, str]] = Counter()
    with _readable(folder := find_table(settings)):
        table = open_table(settings)
        first = table.head(1, columns=[EMBEDDING], filter=LABELLED)
        for batch in table.to_batches(columns=keys, filter=LABELLED):
            groups = pa.Table.from_batches([batch]).group_by(keys)
            counted = groups.aggregate([([], "count_all")]).to_pydict()
            for path, split, label, rows in zip(*counted.values(), strict=True):
                files[path][split] += rows
                labels[split, label] += rows
    dimension = vectors_of(first).shape[1]
    return Contents(folder, dimension, dict(sorted(files.items())), labels)


def read_file(folder: str, path: str, rows: pc.Expression = GOOD) -> pa.Table:
    """Read some of the good rows of one file, which `Contents` names, of a table.

    Returns:
        Path, class, split and embedding, as lists of a fixed size.

    Raises:
        StorageError: It can't be read.
    """
    (store, _), good = open_root(folder), GOOD & rows
    with _readable(folder):
        table = pq.read_table(path, columns=COLUMNS, filters=good, filesystem=store)
    vectors = vectors_of(table)
    lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), max(1, vectors.shape[1]))
    return table.set_column(COLUMNS.index(EMBEDDING), EMBEDDING, lists)


def read_embeddings(settings: Settings, split: str = "", most: int = ALL) -> Embeddings:
    """Read good rows of the table into memory, of one split or of all.

    They are `most` rows at most: the first ones, in the order of the table's files.

    Raises:
        StorageError: There is no table yet, or it can't be read.
    """
    wanted = GOOD & (pc.field(SPLIT) == split) if split else GOOD
    with _readable(find_table(settings)):
        rows = open_table(settings).head(most, columns=COLUMNS, filter=wanted)
    rows = rows.sort_by(PATH)
    paths, classes, splits = (np.array(rows[k].to_pylist(), str) for k in COLUMNS[:3])
    return Embeddings(paths, classes, splits, vectors_of(rows))


def open_table(settings: Settings) -> ds.Dataset:
    """Open the table as an Arrow Dataset, which reads nothing until it is asked.

    Raises:
        StorageError: There is no table yet.
    """
    filesystem, base = open_root(find_table(settings))
    return ds.dataset(base, filesystem=filesystem)


def vectors_of(rows: pa.Table) -> np.ndarray:
    """Return the embeddings of rows, float32 [n, d]."""
    flat = rows[EMBEDDING].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(rows), len(flat) // max(1, len(rows)))


@contextlib.contextmanager
def _readable(folder: str) -> Iterator[None]:
    """Say what to do where the table can't be read."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        what = f"can't read the embeddings ({str(error).split(': ')[-1]})"
        fix = "Run notebook 03_embedding again: it computes what can't be read"
        raise StorageError(what, folder, fix) from error
