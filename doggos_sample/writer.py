"""Writes the data set to a folder or URI, in parts that any worker can draw.

A part is some pictures of one breed and a small table of their attributes, written
last. Whoever repeats an unfinished run draws the parts whose tables are missing. The
table of all attributes comes last: where it is, the data set is complete.
"""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from doggos_sample import BREEDS
from doggos_sample.dataset import SPLITS
from doggos_sample.job import (
    TABLE,
    UNFINISHED,
    Job,
    Part,
    PartsUnseen,
    SampleError,
    Written,
)
from doggos_sample.workers import run_here

PLAN = "plan.json"
_BUCKETS = ("s3", "gcs", "abfs")  # they have no folders to make


def write(base: str, job: Job, filesystem: fs.FileSystem | None = None) -> Written:
    """Draw the data set; see `doggos_sample.write_dataset`."""
    place = filesystem or fs.LocalFileSystem()
    local = isinstance(place, fs.LocalFileSystem)
    base = str(Path(base).expanduser().resolve()) if local else base
    if done := _finished(place, base, job):
        return done
    _refuse_taken(place, base, job)
    try:
        return _write_folder(Path(base), job) if local else _fill(place, base, job)
    except OSError:  # or was another process faster?
        if done := _finished(place, base, job):
            return done
        _refuse_taken(place, base, job)
        raise


def _finished(filesystem: fs.FileSystem, base: str, job: Job) -> Written | None:
    """Return the data set that is there if it is complete and the one wanted."""
    if not filesystem.get_file_info(f"{base}/{TABLE}").is_file:
        return None
    with filesystem.open_input_file(f"{base}/{TABLE}") as file:
        table = pq.read_table(file, columns=["bytes"])
    notes = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if {name: notes.get(name) for name in job.plan} != job.plan:
        return None
    _clear(filesystem, base)
    return _written(table, 0)


def _written(table: pa.Table, drawn: int) -> Written:
    return Written(table.num_rows, pc.sum(table["bytes"]).as_py(), drawn)


def _clear(filesystem: fs.FileSystem, base: str) -> None:
    left = fs.FileSelector(f"{base}/{UNFINISHED}", allow_not_found=True)
    with contextlib.suppress(OSError):  # some may write to a bucket, but not delete
        if filesystem.get_file_info(left):
            filesystem.delete_dir(f"{base}/{UNFINISHED}")


def _refuse_taken(filesystem: fs.FileSystem, base: str, job: Job) -> None:
    """Let nothing but the same run, unfinished, be there.

    Raises:
        SampleError: Something else is.
    """
    if filesystem.get_file_info(base).is_file:
        raise SampleError("a file is there", base, "Name a folder")
    found = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
    # Some object stores list a folder itself, as an empty file.
    if not [i for i in found if i.path.rstrip("/") != base]:
        return
    plan = f"{base}/{UNFINISHED}/{PLAN}"
    if not filesystem.get_file_info(plan).is_file:
        fix = "Remove them or name another place"
        raise SampleError("other files are there already", base, fix)
    with filesystem.open_input_file(plan) as file:
        before = json.loads(file.read())
    if before != job.plan:
        said = ", ".join(f"{k} {v}" for k, v in before.items())
        fix = "Repeat that one, remove its files, or name another place"
        raise SampleError(f"an unfinished other run is there ({said})", base, fix)


def _write_folder(out: Path, job: Job) -> Written:
    """Draw beside the folder, then rename: it is complete or not there at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        written = _fill(fs.LocalFileSystem(), str(temporary), job)
        temporary.chmod(0o755)
        temporary.rename(out)  # an empty folder is replaced
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def _fill(filesystem: fs.FileSystem, base: str, job: Job) -> Written:
    """Draw what is missing of a data set, then write its table."""
    from tqdm import tqdm

    _make_folders(filesystem, base)
    with filesystem.open_output_stream(f"{base}/{UNFINISHED}/{PLAN}") as file:
        file.write(json.dumps(job.plan).encode())
    parts = job.parts(filesystem, base)
    done = _tables(filesystem, base)
    missing = [part for part in parts if part.table not in done]
    todo = sum(part.stop - part.start for part in missing)
    quiet = not job.progress
    with tqdm(desc="drawing", total=todo, unit=" images", disable=quiet) as bar:
        for count in (job.run or run_here)(missing):
            bar.update(count)
    table = _gather(filesystem, base, parts).replace_schema_metadata(job.plan)
    pq.write_table(table, f"{base}/{TABLE}", filesystem=filesystem)
    _clear(filesystem, base)
    return _written(table, todo)


def _make_folders(filesystem: fs.FileSystem, base: str) -> None:
    if filesystem.type_name in _BUCKETS:
        return
    for split in SPLITS:
        for breed in BREEDS:
            filesystem.create_dir(f"{base}/{split}/{breed}", recursive=True)
    filesystem.create_dir(f"{base}/{UNFINISHED}", recursive=True)


def _tables(filesystem: fs.FileSystem, base: str) -> set[str]:
    """Name the parts that are drawn."""
    found = filesystem.get_file_info(fs.FileSelector(f"{base}/{UNFINISHED}"))
    return {info.base_name for info in found if info.extension == "parquet"}


def _gather(filesystem: fs.FileSystem, base: str, parts: list[Part]) -> pa.Table:
    """Join the tables of all parts, in path order.

    Raises:
        PartsUnseen: Workers wrote to a place that this process doesn't see.
    """
    unseen = {part.table for part in parts} - _tables(filesystem, base)
    if unseen:
        raise PartsUnseen(
            f"{len(unseen)} of {len(parts)} parts were drawn but are not there",
            base,
            "Name a folder that all nodes share, or a URI",
        )
    tables = []
    for part in parts:
        with filesystem.open_input_file(f"{base}/{UNFINISHED}/{part.table}") as file:
            tables.append(pq.read_table(file))
    return pa.concat_tables(tables).sort_by("path")
