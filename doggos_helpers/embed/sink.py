"""Writing the table of embeddings: what is left to do, its files, what is dropped."""

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs
from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult
from upath import UPath

from doggos_helpers.artefacts import read_json, write_json
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.data.files import open_root, write_parquet
from doggos_helpers.data.listing import IDENTITY, PATH, SPLIT, hashes
from doggos_helpers.data.manifest import part_of, read_part
from doggos_helpers.embed.table import DIGEST, REASON

DIGESTS = 5_000_000  # that are compared at a time


def parts_of(folder: UPath) -> int:
    """Return the number of parts of the table that is there, or 0: they stay."""
    note = folder / "encoder.json"
    return read_json(note, "03_embedding").get("parts", 0) if note.is_file() else 0


def forget_other_encoder(
    folder: UPath, encoder: dict[str, Any], any_dtype: bool
) -> dict[str, Any]:
    """Drop rows that don't compare with new ones: another model made them.

    Those of another precision do compare (a cosine of 0.999 and more between the same
    images), and go only where the user asked for one, not `any_dtype`.

    Returns:
        The encoder, with the precision in which the table was begun.
    """
    note = folder / "encoder.json"
    if note.is_file():
        before = read_json(note, "03_embedding")
        if any_dtype and encoder | {"dtype": before.get("dtype")} == before:
            return before
        if before != encoder:
            filesystem, base = open_root(str(folder))
            filesystem.delete_dir(base)
    write_json(note, encoder)
    return encoder


def _part_folder(folder: str, part: int) -> str:
    return f"{folder}/{part:05}"


def _stored(folder: str, part: int) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """Read which rows each file of a part holds; drop files that can't be read.

    Nothing may be written there meanwhile.

    Returns:
        The rows by file, and why files were dropped.
    """
    filesystem, base = open_root(_part_folder(folder, part))
    found, damaged = {}, {}
    for info in filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True)):
        if info.base_name.startswith("."):  # a process was killed as it wrote
            filesystem.delete_file(info.path)
            continue
        try:
            columns = [*IDENTITY, DIGEST, REASON, NODE]
            rows = pq.read_table(info.path, filesystem=filesystem, columns=columns)
            if lacking := sorted(set(columns) - set(rows.column_names)):
                raise ValueError(f"it has no column {', '.join(lacking)}")
            found[info.path] = rows
        except (pa.ArrowInvalid, ValueError) as error:
            filesystem.delete_file(info.path)
            damaged[info.path] = str(error).split("\n")[0]
    return found, damaged


def stored_files(folder: str, part: int) -> tuple[list[str], int]:
    """Return the URIs of a part's files, and how many rows they hold together."""
    there = _part_folder(folder, part)
    filesystem, base = open_root(there)
    found = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
    names = sorted(f.base_name for f in found if not f.base_name.startswith("."))
    rows = 0
    for name in names:
        rows += pq.read_metadata(f"{base}/{name}", filesystem=filesystem).num_rows
    return [f"{there}/{name}" for name in names], rows


@functools.lru_cache(maxsize=1)
def unfinished_rows(folder: str, part: int, files: tuple[str, ...]) -> pa.Table:
    """Return the rows of a part of the manifest that files of the table don't have.

    The files are named, and not listed here: a task that Ray runs again, while others
    write, must return what it returned before.
    """
    rows, keys = read_part(folder, part), list(IDENTITY)
    for file in files:
        filesystem, path = open_root(file)
        done = pq.read_table(path, filesystem=filesystem, columns=keys)
        rows = rows.join(done, keys, join_type="left anti")
    return rows.sort_by(PATH)


@dataclass
class Settled:
    """What the table has of a part of the manifest."""

    rows: int
    reasons: Counter[str]
    nodes: Counter[str]
    damaged: dict[str, str]


def settle(manifest: str, folder: str, part: int, unread: bool) -> Settled:
    """Drop the rows of a part that the manifest no longer has, or that are doubled.

    Only files with such rows are written again. Where rows of files that couldn't be
    read aren't wanted (`unread`) they go as well, to be tried again.

    Args:
        manifest: The manifest's folder.
        folder: Of the table.
        part: Its number.
        unread: Whether to keep rows of files that couldn't be read.
    """
    wanted, keys = read_part(manifest, part).select(IDENTITY), list(IDENTITY)
    reasons, nodes, count = Counter[str](), Counter[str](), 0
    filesystem, _ = open_root(folder)
    stored, damaged = _stored(folder, part)
    for path, rows in sorted(stored.items()):
        numbered = rows.append_column("row", pa.array(np.arange(len(rows))))
        if not unread:
            numbered = numbered.filter(pc.field(DIGEST) != "")
        kept = wanted.join(numbered, keys, join_type="inner")
        wanted = wanted.join(kept.select(keys), keys, join_type="left anti")
        if not len(kept):
            filesystem.delete_file(path)
        elif len(kept) < len(rows):
            whole = pq.read_table(path, filesystem=filesystem)
            name = path.rpartition("/")[2]
            write_parquet(whole.take(kept["row"]), _part_folder(folder, part), name)
        count += len(kept)
        reasons.update(r for r in kept[REASON].to_pylist() if r)
        nodes.update(kept[NODE].to_pylist())
    return Settled(count, reasons, nodes, damaged)


class TableSink(Datasink[int]):
    """Write rows into the table, a file at a time, each whole or not at all.

    A file is named by its rows: a task that Ray runs again replaces what it wrote.

    Args:
        folder: Of the table.
        parts: Of the manifest.
        rows: At least so many a file, where there are as many.
    """

    def __init__(self, folder: str, parts: int, rows: int) -> None:
        """Remember where to write."""
        self.folder, self.parts, self.rows = folder, parts, rows
        self.written = 0

    @property
    def min_rows_per_write(self) -> int:
        """Return how many rows Ray Data collects for one file."""
        return self.rows

    def write(self, blocks: Iterable[Block], ctx: Any) -> int:
        """Write blocks of rows. Runs in Ray Data tasks; returns the number of rows."""
        table = pa.concat_tables(BlockAccessor.for_block(b).to_arrow() for b in blocks)
        if not len(table):
            return 0
        where = part_of(table[PATH], self.parts)
        for part in pc.unique(where).to_pylist():
            rows = table.filter(pc.equal(where, part)).sort_by(PATH)
            name = f"{int(hashes(rows.select(IDENTITY)).sum()):016x}-{len(rows)}"
            write_parquet(rows, _part_folder(self.folder, part), f"{name}.parquet")
        return len(table)

    def on_write_complete(self, write_result: WriteResult[int]) -> None:
        """Count the rows of all files."""
        self.written = int(sum(write_result.write_returns))


def in_several_splits(folder: str, rows: int) -> int:
    """Count the files whose very bytes another split holds as well; warn of them.

    It looks at some millions of digests at a time.
    """
    filesystem, base = open_root(folder)
    table, count, example = ds.dataset(base, filesystem=filesystem), 0, ""
    slices = min(256, 1 + rows // DIGESTS)
    edges = [f"{256 * i // slices:02x}" for i in range(slices)] + ["g"]
    for low, high in itertools.pairwise(edges):
        digest = pc.field(DIGEST)
        wanted = (digest != "") & (digest >= low) & (digest < high)
        found = table.to_table([DIGEST, SPLIT, PATH], filter=wanted).to_pandas()
        copies = found[found.groupby(DIGEST)[SPLIT].transform("nunique") > 1]
        count += len(copies)
        if len(copies) and not example:
            alike = copies[PATH][copies[DIGEST] == copies[DIGEST].iloc[0]]
            example = " and ".join(sorted(alike))
    if count:
        logging.getLogger(__name__).warning(
            "%d images have a copy in another split, which flatters the evaluation,"
            " such as %s",
            *(count, example),
        )
    return count
