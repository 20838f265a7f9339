"""The table of embeddings: one row a manifest path, finished or still pending."""

import logging
import shutil
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.artefacts import missing, read_json, write_json
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.data.manifest import CLASS, PATH, SIZE, SPLIT, Manifest
from doggos_helpers.errors import StorageError
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


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


def _read_piece(file: Path) -> "pa.Table | None":
    """Read a file of rows; set one aside that can't be used, to be computed again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        piece = pq.read_table(file)
        if missing_columns := sorted(set(COLUMNS) - set(piece.column_names)):
            raise ValueError(f"it has no column {', '.join(missing_columns)}")
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


def in_several_splits(table: "pa.Table") -> int:
    """Count the files whose very bytes another split holds as well; warn of them."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for digest, split, path in zip(
        *(table[c].to_pylist() for c in (DIGEST, SPLIT, PATH)), strict=True
    ):
        if digest:
            found[digest].append((split, path))
    copies = [rows for rows in found.values() if len({split for split, _ in rows}) > 1]
    count = sum(len(rows) for rows in copies)
    if copies:
        logging.getLogger(__name__).warning(
            "%d images have a copy in another split, which flatters the evaluation,"
            " such as %s",
            *(count, " and ".join(sorted(path for _, path in copies[0]))),
        )
    return count


def stored_rows(folder: Path, manifest: Manifest) -> "pa.Table | None":
    """Read what is stored, finished or pending: one row a path of the manifest."""
    import pyarrow as pa

    files = sorted((folder / TABLE).glob("*.parquet"))
    files += sorted((folder / PENDING).rglob("*.parquet"))
    pieces = [piece for file in files if (piece := _read_piece(file)) is not None]
    if not pieces:
        return None
    table = pa.concat_tables(pieces)
    sizes = dict(
        zip(
            manifest.table[PATH].to_pylist(),
            manifest.table[SIZE].to_pylist(),
            strict=True,
        )
    )
    best: dict[str, tuple[bool, int]] = {}
    columns = (PATH, SIZE, REASON)
    for i, (path, size, reason) in enumerate(
        zip(*(table[c].to_pylist() for c in columns), strict=True)
    ):
        if sizes.get(path) == size:  # later pieces are newer; a good row wins
            best[path] = max(best.get(path, (False, -1)), (reason is None, i))
    return table.take([i for _, (_, i) in sorted(best.items())])


def unfinished_rows(folder: Path, manifest: Manifest) -> "pa.Table":
    """Return the manifest rows that have no embedding yet."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = stored_rows(folder, manifest)
    if stored is None:
        return manifest.table
    done = stored.filter(pc.is_null(stored[REASON]))[PATH]
    isin = pc.is_in(
        manifest.table[PATH], value_set=pa.array(done.to_pylist(), pa.string())
    )
    return manifest.table.filter(pc.invert(isin))


def commit(folder: Path, manifest: Manifest) -> "tuple[pa.Table, dict[str, int]]":
    """Merge the pending rows into the table, sorted by path, and swap it in."""
    import pyarrow.parquet as pq

    table = stored_rows(folder, manifest)
    if table is None or table.num_rows != manifest.table.num_rows:
        found = 0 if table is None else table.num_rows
        raise StorageError(
            f"{found} of {manifest.table.num_rows} rows were stored",
            str(folder),
            "Run the same command again: it computes the missing rows",
        )
    nodes = Counter(n for n in table[NODE].to_pylist() if n)
    table = table.drop_columns([NODE])
    target = folder / TABLE
    target.mkdir(parents=True, exist_ok=True)
    draft = target / f".{PART}"
    pq.write_table(table, draft)
    draft.replace(target / PART)
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
    whole = isinstance(record, dict) and record.get("fingerprint")
    encoder = record.get("encoder") if whole else None
    if not (isinstance(encoder, dict) and encoder.get("model")):
        raise StorageError(
            "not the record of an embedding run",
            str(file),
            "Delete it and run notebook 03_embedding: rows that are there are kept",
        )
    return record


def read_embeddings(settings: Settings, split: str = "") -> Embeddings:
    """Read the good rows of the table, of one split or of all.

    Raises:
        StorageError: There is no table yet, or it can't be read.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = embeddings_file(settings)
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError(
            f"can't read the embeddings ({error})",
            str(file),
            "Delete this file and run notebook 03_embedding again",
        ) from error
    keep = pc.is_null(table[REASON])
    if split:
        keep = pc.and_(keep, pc.equal(table[SPLIT], split))
    table = table.filter(keep).combine_chunks()
    flat = table[EMBEDDING].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(table.num_rows, len(flat) // max(1, table.num_rows))
    text = [np.array(table[c].to_pylist(), dtype=str) for c in (PATH, CLASS, SPLIT)]
    return Embeddings(text[0], text[1], text[2], vectors)
