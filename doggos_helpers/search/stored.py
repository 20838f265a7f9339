"""The index on the storage, for more images than memory should hold."""

import os
from collections.abc import Iterator
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.index import Bitmap, BTree, IvfRq
from pyarrow import fs
from tqdm.auto import tqdm

from doggos_helpers.artefacts import alone, missing, read_json, write_json, writing
from doggos_helpers.data.files import open_root
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import EMBEDDING, find_table, read_embeddings, read_file
from doggos_helpers.environment import bucket_access
from doggos_helpers.search.index import IMAGES, quoted
from doggos_helpers.settings import Settings

FILE = "file"  # of the table that a row is from
CACHE_BYTES = 2**30  # of the index, that a process keeps in memory


def update_index(settings: Settings) -> None:
    """Bring the index up to date with the table, file by file; build it at first.

    An update that was killed is undone by the next one.

    Raises:
        StorageError: There are no embeddings, or it can't be written.
    """
    folder = settings.artefacts / "search"
    note = folder / "index.json"
    with alone(settings, "search"), writing(folder, "the index"):
        there = _files(table := find_table(settings))
        done = read_json(note, "03_embedding") if note.is_file() else {"files": []}
        kept = set(done["files"]).intersection(there)
        new = {name: path for name, path in there.items() if name not in kept}
        if len(kept) == len(there) == len(done["files"]):
            return
        with tqdm(unit=" rows", disable=not settings.shows_progress) as bar:
            bar.set_description("reading embeddings")
            if kept:  # what isn't of these files is gone, or of an update that died
                rows, trained = open_rows(settings), done.get("trained", 0)
                rows.delete(f"{FILE} NOT IN ({', '.join(map(quoted, kept))})")
            else:  # none yet, or of another encoder
                rows, trained = _create(settings), 0
            rows.add(_read(table, new, rows.schema), progress=bar)
            bar.set_description("sorting them into lists")
            trained = _index(rows, trained)
        write_json(note, {"files": sorted(there), "trained": trained})


def _create(settings: Settings) -> Any:
    """Create the index's table, empty, in the place of one that is there."""
    fields = {name: pa.string() for name in (PATH, CLASS, SPLIT, FILE)}
    dimension = read_embeddings(settings, most=1).vectors.shape[1]
    fields[EMBEDDING] = pa.list_(pa.float32(), dimension)
    database = _database(settings)
    mode = "overwrite" if IMAGES in database.list_tables().tables else "create"
    return database.create_table(IMAGES, schema=pa.schema(fields), mode=mode)


def _index(rows: Any, trained: int) -> int:
    """Index the vectors, and what searches filter by.

    The lists of vectors that were made of `trained` rows are made anew where there are
    more than twice as many; returned is what `trained` is then.
    """
    count = rows.count_rows()
    if count <= 2 * trained:
        rows.optimize()
        return trained
    rows.create_index(EMBEDDING, config=IvfRq(distance_type="cosine", num_bits=3))
    rows.create_index(PATH, config=BTree())
    for column in (CLASS, SPLIT):
        rows.create_index(column, config=Bitmap())
    return count


def _read(folder: str, files: dict[str, str], schema: pa.Schema) -> Any:
    """Return an Arrow reader of the good rows of files, one file at a time."""

    def batches() -> Iterator[pa.RecordBatch]:
        for name, path in files.items():
            rows = read_file(folder, path)
            if len(rows):
                rows = rows.append_column(FILE, pa.array([name] * len(rows)))
                yield from rows.select(schema.names).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


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
    return lancedb.connect(
        str(settings.artefacts / "search"),
        storage_options={"allow_http": "true"} if plain else {},
        session=lancedb.Session(index_cache_size_bytes=CACHE_BYTES),
    )


def open_rows(settings: Settings) -> Any:
    """Open the index's table, or raise StorageError where there is none."""
    try:
        return _database(settings).open_table(IMAGES)
    except (ValueError, OSError):
        raise missing(settings.artefacts / "search", "03_embedding") from None
