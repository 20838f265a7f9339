"""What the table has of a manifest, what it must not have, and what is left to do."""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pyarrow import fs

from doggos_helpers.artefacts import read_json, write_json
from doggos_helpers.cluster.nodes import NODE
from doggos_helpers.data.files import open_root, write_parquet
from doggos_helpers.data.listing import PATH, SCHEMA
from doggos_helpers.data.manifest import Manifest, part_file, read_part
from doggos_helpers.embed.table import REASON
from doggos_helpers.settings import Settings

NOTE, FILE, ROW = "encoder.json", "file", "row"
TEXTS = [pa.field(name, pa.string()) for name in (REASON, NODE, FILE)]
STORED = pa.schema([*SCHEMA, *TEXTS, pa.field(ROW, pa.int64())])
UNREAD = pc.starts_with(pc.coalesce(pc.field(REASON), pc.scalar("")), "unreadable")
Counts = tuple[Counter[str], ...]
PARTS_AT_A_TIME = 4  # on a node: half a million rows each


def encoder_of(settings: Settings) -> dict[str, Any]:
    """Return what made the table that is there: model, dtype, number of parts."""
    note = settings.embeddings_dir / NOTE
    return read_json(note, "03_embedding") if note.is_file() else {}


def begin_table(settings: Settings, made: dict[str, Any]) -> dict[str, Any]:
    """Drop rows that don't compare with new ones: another encoder made them.

    Those of another precision do compare (a cosine of 0.999 and more between the same
    images), and go only where the settings ask for one.

    Returns:
        What made the rows, with the dtype of the first ones.
    """
    before = encoder_of(settings)
    asked = {k: v for k, v in made.items() if k != "dtype" or settings.dtype}
    if asked.items() <= before.items():
        return before
    filesystem, base = open_root(str(settings.embeddings_dir))
    filesystem.delete_dir_contents(base, missing_dir_ok=True)
    write_json(settings.embeddings_dir / NOTE, made)
    return made


def settle(manifest: Manifest, table: str, left: Manifest, retry: bool) -> Counts:
    """Make the table hold each row of a manifest once at most, and no others.

    Nobody else may write meanwhile. A task settles a part, some of them at a time; the
    rows that the table lacks go to the manifest `left`. Rows of files that couldn't be
    read go too where they are to be tried again (`retry`).

    Returns:
        The table's rows by reason (good ones by "") and by node.
    """
    task = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(settle_one)

    def run(part: int) -> Counts:
        return ray.get(task.remote(manifest.folder, table, left.folder, part, retry))

    with ThreadPoolExecutor(PARTS_AT_A_TIME * len(ray.nodes())) as pool:
        parts = zip(*pool.map(run, range(manifest.parts)), strict=True)
    reasons, nodes, lost = (sum(counts, Counter[str]()) for counts in parts)
    for sentence in lost:
        logging.getLogger(__name__).warning(sentence)
    return reasons, nodes


def settle_one(manifest: str, table: str, left: str, part: int, retry: bool) -> Counts:
    """Settle a part: only files with rows that go are written again."""
    wanted, folder = read_part(manifest, part), f"{table}/{part:05}"
    stored, lost = _read_files(folder)
    lengths = Counter(stored[FILE].to_pylist())
    stored = stored.filter(~UNREAD) if retry else stored
    joined = wanted.join(stored, SCHEMA.names, join_type="inner").to_pandas()
    kept = joined.drop_duplicates(PATH)
    places = dict(iter(kept.groupby(FILE)[ROW]))
    filesystem, _ = open_root(folder)
    for file, length in lengths.items():
        if file not in places:
            filesystem.delete_file(file)
        elif len(places[file]) < length:
            whole = pq.read_table(file, filesystem=filesystem)
            rows = whole.take(pa.array(places[file]))
            write_parquet(rows, folder, file.rpartition("/")[2])
    done = pc.is_in(wanted[PATH], pa.array(kept[PATH], pa.string()))
    write_parquet(wanted.filter(pc.invert(done)), left, part_file(part))
    return Counter(kept[REASON].fillna("")), Counter(kept[NODE]), lost


def _read_files(folder: str) -> tuple[pa.Table, Counter[str]]:
    """Read the rows of a part, without vectors, and drop files that can't be read.

    Returns the rows with their places, and a sentence on each file that was dropped.
    """
    filesystem, base = open_root(folder)
    tables, lost, columns = [STORED.empty_table()], Counter[str](), STORED.names[:-2]
    for info in filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True)):
        try:
            if info.base_name.startswith("."):
                raise ValueError("a process was killed as it wrote them")
            rows = pq.read_table(info.path, filesystem=filesystem, columns=columns)
            rows = rows.append_column(ROW, pa.array(range(len(rows))))
            rows = rows.append_column(FILE, pa.array([info.path] * len(rows)))
            tables.append(rows.select(STORED.names).cast(STORED))
        except (KeyError, OSError, ValueError) as error:
            if isinstance(error, OSError) and (error.errno or "://" in folder):
                raise  # the disk or the store fails, and not this file
            filesystem.delete_file(info.path)
            why = str(error).splitlines()[0]
            lost[f"The rows of {info.path} are computed again: {why}"] += 1
    return pa.concat_tables(tables), lost
