"""The table of embeddings: one row a manifest path, finished or still pending."""

import logging
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from doggos_helpers.artefacts import missing, read_json, replacing, write_json
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.data.manifest import CLASS, PATH, SIZE, SPLIT, Manifest
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

EMBEDDING = "embedding"
REASON = "reason"
DIGEST = "digest"
TABLE, PENDING, PART = "table", "pending", "embeddings.parquet"
COLUMNS = (PATH, CLASS, SPLIT, SIZE, DIGEST, EMBEDDING, REASON)


def forget_other_encoder(folder: Path, encoder: dict[str, str]) -> None:
    """Drop rows that another model or precision embedded: they don't compare."""
    note = folder / "encoder.json"
    if note.is_file() and read_json(note, "03_embedding") != encoder:
        shutil.rmtree(folder)
    write_json(note, encoder)


def _read_piece(file: Path) -> pa.Table | None:
    """Read a file of rows; set one aside that can't be used, to be computed again."""
    try:
        piece = pq.read_table(file)
        if lacking := sorted(set(COLUMNS) - set(piece.column_names)):
            raise ValueError(f"it has no column {', '.join(lacking)}")
    except PermissionError:
        raise
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        if file.parent.name == TABLE:  # a half-written pending file is no news
            logging.getLogger(__name__).warning(
                "The rows of %s are computed again: %s", file, str(error).split("\n")[0]
            )
        file.unlink()
        return None
    if NODE not in piece.column_names:
        piece = piece.append_column(NODE, pa.nulls(piece.num_rows, pa.string()))
    return piece.select([*COLUMNS, NODE])


def in_several_splits(table: pa.Table) -> int:
    """Count the files whose very bytes another split holds as well; warn of them."""
    rows = table.select([DIGEST, SPLIT, PATH]).to_pandas()
    rows = rows[rows[DIGEST] != ""]
    copies = rows[rows.groupby(DIGEST)[SPLIT].transform("nunique") > 1]
    if len(copies):
        alike = copies[PATH][copies[DIGEST] == copies[DIGEST].iloc[0]]
        logging.getLogger(__name__).warning(
            "%d images have a copy in another split, which flatters the evaluation,"
            " such as %s",
            *(len(copies), " and ".join(sorted(alike))),
        )
    return len(copies)


def stored_rows(folder: Path, manifest: Manifest) -> pa.Table | None:
    """Read what is stored, finished or pending: one row a path of the manifest."""
    files = sorted((folder / TABLE).glob("*.parquet"))
    files += sorted((folder / PENDING).rglob("*.parquet"))
    pieces = [piece for file in files if (piece := _read_piece(file)) is not None]
    if not pieces:
        return None
    table = pa.concat_tables(pieces)
    rows = table.select([PATH, SIZE, REASON]).to_pandas().reset_index(names="row")
    rows = rows.merge(manifest.table.select([PATH, SIZE]).to_pandas())
    # Later pieces are newer; a good row wins.
    rows = rows.assign(good=rows[REASON].isna()).sort_values(["good", "row"])
    rows = rows.drop_duplicates(PATH, keep="last").sort_values(PATH)
    return table.take(rows["row"].to_numpy())


def unfinished_rows(folder: Path, manifest: Manifest) -> pa.Table:
    """Return the manifest rows that have no embedding yet."""
    stored = stored_rows(folder, manifest)
    if stored is None:
        return manifest.table
    done = stored.filter(pc.is_null(stored[REASON]))[PATH]
    return manifest.table.filter(pc.invert(pc.is_in(manifest.table[PATH], done)))


def commit(folder: Path, manifest: Manifest) -> tuple[pa.Table, dict[str, int]]:
    """Merge the pending rows into the table, sorted by path, and swap it in.

    Returns:
        The table, and how many rows each node embedded.

    Raises:
        StorageError: Rows are missing.
    """
    table = stored_rows(folder, manifest)
    if table is None or table.num_rows != manifest.table.num_rows:
        raise StorageError(
            f"{table.num_rows if table else 0} of {manifest.table.num_rows} rows were"
            " stored",
            str(folder),
            "Run the same command again: it computes the missing rows",
        )
    nodes = Counter(n for n in table[NODE].to_pylist() if n)
    table = table.drop_columns([NODE])
    with replacing(folder / TABLE / PART) as draft:
        pq.write_table(table, draft)
    shutil.rmtree(folder / PENDING, ignore_errors=True)
    return table, dict(sorted(nodes.items()))


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


def embeddings_file(settings: Settings) -> Path:
    """Return the Parquet file of the table.

    Raises:
        StorageError: It isn't there yet.
    """
    file = settings.embeddings_dir / TABLE / PART
    if not (file.is_file() and (settings.embeddings_dir / "run.json").is_file()):
        raise missing(file, "03_embedding")
    return file


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
    file, good = embeddings_file(settings), pc.field(REASON).is_null()
    wanted = good & (pc.field(SPLIT) == split) if split else good
    try:
        columns = [PATH, CLASS, SPLIT, EMBEDDING]
        table = pq.read_table(file, columns=columns, filters=wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(
            f"can't read the embeddings ({error})",
            str(file),
            "Delete this file and run notebook 03_embedding again",
        ) from error
    flat = table[EMBEDDING].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(len(table), len(flat) // max(1, len(table)))
    paths, classes, splits = (np.array(table[c].to_pylist(), str) for c in columns[:3])
    return Embeddings(paths, classes, splits, vectors)
