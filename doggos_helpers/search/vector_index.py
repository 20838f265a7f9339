"""A vector index for more images than memory should hold: LanceDB on the storage."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import Bitmap, BTree, IvfSq
from pyarrow import fs

from doggos_helpers.artefacts import missing, read_json, write_json, writing
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import (
    EMBEDDING,
    find_table,
    read_file,
    read_record,
)
from doggos_helpers.environment import bucket_access
from doggos_helpers.lock import alone
from doggos_helpers.search.index import Index, Match, not_indexed
from doggos_helpers.settings import Settings

NAME, FILE = "images", "file"
PROBES, REFINE = 64, 4  # lists searched; candidates compared exactly, of each k
FEW_ROWS = 20_000  # that a filter leaves: compared one by one
FEWEST_ROWS = 256 * 16  # what training the index takes


class VectorIndex(Index):
    """Approximate search: the nearest lists of vectors, then exact cosines.

    Args:
        settings: Whose embeddings; `update_index` has been there before.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the index; its vectors stay on the storage.

        Raises:
            StorageError: It isn't there.
        """
        self.rows = _open(settings)
        self.dimension = self.rows.schema.field(EMBEDDING).type.list_size
        self.classes = read_record(settings)["classes"]

    def __len__(self) -> int:
        """Return the number of images."""
        return self.rows.count_rows()

    def vector_of(self, path: str) -> np.ndarray:
        """Return the embedding of an image by its path."""
        wanted = f"{PATH} = {_quoted(path)}"
        found = self.rows.search().where(wanted).select([EMBEDDING]).limit(1).to_arrow()
        if not len(found):
            raise not_indexed(path)
        return found[EMBEDDING].combine_chunks().flatten().to_numpy()

    def _nearest(
        self, vector: np.ndarray, k: int, classes: Sequence[str], split: str
    ) -> list[Match]:
        query = self.rows.search(vector, vector_column_name=EMBEDDING)
        query = query.distance_type("cosine").select([PATH, CLASS, SPLIT, "_distance"])
        conditions = [f"{SPLIT} = {_quoted(split)}"] if split else []
        if classes:
            conditions.append(f"class IN ({', '.join(map(_quoted, classes))})")
        if conditions:
            wanted = " AND ".join(conditions)
            query = query.where(wanted, prefilter=True)
            if self.rows.count_rows(wanted) <= FEW_ROWS:  # they may lie in any list
                query = query.bypass_vector_index()
        query = query.nprobes(PROBES)
        if classes:  # their lists may lie far off: search on until there are k
            query = query.maximum_nprobes(0)
        found = query.refine_factor(REFINE).limit(k).to_list()
        return [
            Match(row[PATH], row[CLASS], row[SPLIT], 1 - row["_distance"])
            for row in found
        ]


def update_index(settings: Settings) -> int:
    """Bring the index up to date with the table, file by file; build it at first.

    An update that was killed is undone by the next one.

    Returns:
        How many files of the table were added.

    Raises:
        StorageError: There are no embeddings, or it can't be written.
    """
    folder = settings.artefacts / "search"
    note = folder / "index.json"
    with alone(settings, "search"), writing(folder, "the index"):
        table, database = find_table(settings), _database(settings)
        noted = read_json(note, "03_embedding") if note.is_file() else {}
        there, known = _files(table), set(noted.get("files", []))
        new = {name: path for name, path in there.items() if name not in known}
        gone = sorted(known - set(there))
        if not (new or gone):
            return 0
        reader = _read(table, new)
        if len(gone) == len(known):  # none yet, or of another encoder
            print(f"Indexing {len(new)} files of embeddings for search.", flush=True)
            rows = database.create_table(NAME, reader, mode="overwrite")
        else:
            rows = database.open_table(NAME)
            if rows.version != noted["version"]:
                rows.restore(noted["version"])
            for first in range(0, len(gone), 500):
                names = ", ".join(map(_quoted, gone[first : first + 500]))
                rows.delete(f"{FILE} IN ({names})")
            if reader:
                rows.add(reader)
        _index(rows)
        write_json(note, {"files": sorted(there), "version": rows.version})
        return len(new)


def _index(rows: Any) -> None:
    """Index what isn't: vectors from some thousands on, and what searches filter by."""
    if rows.list_indices():
        rows.optimize()
        return
    count = rows.count_rows()
    if count >= FEWEST_ROWS:
        lists = max(16, int(math.sqrt(count)))
        how = IvfSq(distance_type="cosine", num_partitions=lists)
        rows.create_index(EMBEDDING, config=how)
    rows.create_index(PATH, config=BTree())
    for column in (CLASS, SPLIT, FILE):
        rows.create_index(column, config=Bitmap())


def _read(folder: str, files: dict[str, str]) -> pa.RecordBatchReader | None:
    """Read the good rows of files, one file at a time; None where there are none."""
    tables = _tables(folder, files)
    first = next(tables, None)
    if first is None:
        return None

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for table in tables:
            yield from table.cast(first.schema).to_batches()

    return pa.RecordBatchReader.from_batches(first.schema, batches())


def _tables(folder: str, files: dict[str, str]) -> Iterator[pa.Table]:
    for name, path in files.items():
        rows = read_file(folder, path)
        if len(rows):
            yield rows.append_column(FILE, pa.array([name] * len(rows)))


def _files(folder: str) -> dict[str, str]:
    """Return the table's files: their paths, by names that say which bytes."""
    filesystem, base = open_root(folder)
    found = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    return {
        f"{os.path.relpath(info.path, base)} {info.size} {info.mtime_ns}": info.path
        for info in sorted(found, key=lambda info: info.path)
        if info.path.endswith(".parquet") and not info.base_name.startswith(".")
    }


def _database(settings: Settings) -> Any:
    plain = any(url.startswith("http://") for url in bucket_access().values())
    options = {"allow_http": "true"} if plain else {}
    uri = str(settings.artefacts / "search")
    return lancedb.connect(uri, storage_options=options)


def _open(settings: Settings) -> Any:
    try:
        return _database(settings).open_table(NAME)
    except (ValueError, OSError):
        raise missing(settings.artefacts / "search", "03_embedding") from None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
