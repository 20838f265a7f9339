"""The table of embeddings: one row a manifest path, with an embedding or a reason."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from doggos_helpers.artefacts import missing, read_json
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

EMBEDDING = "embedding"
REASON = "reason"
DIGEST = "digest"
TABLE = "table"
LAYOUT = "2"  # of its files; a table of another one is not gone on with


def table_folder(settings: Settings) -> str:
    """Name the folder of the table's Parquet files: one row a manifest path."""
    return str(settings.embeddings_dir / TABLE)


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
        columns = (self.paths, self.classes, self.splits, self.vectors)
        return Embeddings(*(c[mask] for c in columns))

    def to_arrow(self) -> pa.FixedSizeListArray:
        """Return the vectors as an Arrow column: one list of d numbers a row."""
        flat = pa.array(np.ascontiguousarray(self.vectors).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])


def find_table(settings: Settings) -> str:
    """Return the folder of the table's Parquet files.

    Raises:
        StorageError: It isn't there yet.
    """
    folder = settings.embeddings_dir / TABLE
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
        raise StorageError(
            "not the record of an embedding run",
            str(file),
            "Delete it and run notebook 03_embedding: rows that are there are kept",
        ) from None
    return record


def read_embeddings(settings: Settings, split: str = "") -> Embeddings:
    """Read the good rows of the table, of one split or of all.

    Raises:
        StorageError: There is no table yet, or it can't be read.
    """
    file, good = find_table(settings), pc.field(REASON).is_null()
    wanted = good & (pc.field(SPLIT) == split) if split else good
    try:
        columns = [PATH, CLASS, SPLIT, EMBEDDING]
        filesystem, base = open_root(file)
        table = pq.read_table(
            base, columns=columns, filters=wanted, filesystem=filesystem
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(
            f"can't read the embeddings ({str(error).split(': ')[-1]})",
            str(file),
            "Run notebook 03_embedding again: it computes what can't be read",
        ) from error
    table = table.sort_by(PATH)
    flat = table[EMBEDDING].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(len(table), len(flat) // max(1, len(table)))
    paths, classes, splits = (np.array(table[c].to_pylist(), str) for c in columns[:3])
    return Embeddings(paths, classes, splits, vectors)
