"""Writes the data set to a folder or URI, in parts that any worker can draw.

A part is some pictures of one breed and a small table of their attributes, written
last. Whoever repeats an unfinished run draws the parts whose tables are missing. The
table of all attributes comes last: where it is, the data set is complete.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from doggos_helpers.data.files import open_root
from doggos_helpers.errors import DoggosError, SettingsError, StorageError, causes
from doggos_sample import BREEDS
from doggos_sample.dataset import SPLITS
from doggos_sample.job import MANY, TABLE, UNFINISHED, Job, Part, Written

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

PLAN = "plan.json"
_BUCKETS = ("s3", "gcs", "abfs")  # they have no folders to make


def write(out: str, job: Job) -> Written:
    """Draw the data set; see `doggos_sample.write_dataset`."""
    from pyarrow.fs import LocalFileSystem

    filesystem, base = open_root(out)
    local = isinstance(filesystem, LocalFileSystem)
    root = str(Path(base).expanduser().resolve()) if local else out
    with _explained(root):
        if done := _finished(root, job):
            return done
        _refuse_taken(root, job)
        try:
            return _write_folder(Path(root), job) if local else _fill(root, job)
        except (OSError, StorageError):  # or was another process faster?
            if done := _finished(root, job):
                return done
            _refuse_taken(root, job)
            raise


@contextlib.contextmanager
def _explained(root: str) -> Iterator[None]:
    """Say which place can't be written, and why."""
    try:
        yield
    except DoggosError:
        raise
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OSError):
                why = cause.strerror or str(cause)
                raise StorageError(
                    f"can't write the sample ({why[:200].lower()})",
                    root,
                    "Check the address, its permissions and its space, or name another",
                ) from error
        raise


def _finished(root: str, job: Job) -> Written | None:
    """Return the data set that is there if it is complete and the one wanted."""
    import pyarrow.parquet as pq

    filesystem, base = open_root(root)
    if not filesystem.get_file_info(f"{base}/{TABLE}").is_file:
        return None
    with filesystem.open_input_file(f"{base}/{TABLE}") as file:
        table = pq.read_table(file, columns=["bytes"])
    notes = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if {name: notes.get(name) for name in job.plan} != job.plan:
        return None
    _clear(filesystem, base)
    return _written(table, 0)


def _written(table: "pa.Table", drawn: int) -> Written:
    import pyarrow.compute as pc

    return Written(table.num_rows, pc.sum(table["bytes"]).as_py(), drawn)


def _clear(filesystem: "FileSystem", base: str) -> None:
    from pyarrow import fs

    left = fs.FileSelector(f"{base}/{UNFINISHED}", allow_not_found=True)
    with contextlib.suppress(OSError):  # some may write to a bucket, but not delete
        if filesystem.get_file_info(left):
            filesystem.delete_dir(f"{base}/{UNFINISHED}")


def _refuse_taken(root: str, job: Job) -> None:
    """Let nothing but the same run, unfinished, be there.

    Raises:
        SettingsError: Something else is.
    """
    from pyarrow import fs

    filesystem, base = open_root(root)
    if filesystem.get_file_info(base).is_file:
        raise SettingsError("a file is there", root, "Name a folder")
    found = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
    # Some object stores list a folder itself, as an empty file.
    if not [i for i in found if i.path.rstrip("/") != base]:
        return
    plan = f"{base}/{UNFINISHED}/{PLAN}"
    if not filesystem.get_file_info(plan).is_file:
        fix = "Remove them or name another place"
        raise SettingsError("other files are there already", root, fix)
    with filesystem.open_input_file(plan) as file:
        before = json.loads(file.read())
    if before != job.plan:
        said = ", ".join(f"{k} {v}" for k, v in before.items())
        fix = "Repeat that one, remove its files, or name another place"
        raise SettingsError(f"an unfinished other run is there ({said})", root, fix)


def _write_folder(out: Path, job: Job) -> Written:
    """Draw beside the folder, then rename: it is complete or not there at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        written = _fill(str(temporary), job)
        temporary.chmod(0o755)
        temporary.rename(out)  # an empty folder is replaced
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def _fill(root: str, job: Job) -> Written:
    """Draw what is missing of a data set, then write its table."""
    import pyarrow.parquet as pq
    from tqdm import tqdm

    from doggos_sample.workers import run

    filesystem, base = open_root(root)
    _make_folders(filesystem, base)
    with filesystem.open_output_stream(f"{base}/{UNFINISHED}/{PLAN}") as file:
        file.write(json.dumps(job.plan).encode())
    parts = job.parts(root)
    done = _tables(filesystem, base)
    missing = [part for part in parts if part.table not in done]
    todo = sum(part.stop - part.start for part in missing)
    quiet = not job.settings.shows_progress
    with tqdm(desc="drawing", total=todo, unit=" images", disable=quiet) as bar:
        for count in run(missing, job, on_ray=todo >= MANY):
            bar.update(count)
    table = _gather(filesystem, base, parts).replace_schema_metadata(job.plan)
    pq.write_table(table, f"{base}/{TABLE}", filesystem=filesystem)
    _clear(filesystem, base)
    return _written(table, todo)


def _make_folders(filesystem: "FileSystem", base: str) -> None:
    if filesystem.type_name in _BUCKETS:
        return
    for split in SPLITS:
        for breed in BREEDS:
            filesystem.create_dir(f"{base}/{split}/{breed}", recursive=True)
    filesystem.create_dir(f"{base}/{UNFINISHED}", recursive=True)


def _tables(filesystem: "FileSystem", base: str) -> set[str]:
    """Name the parts that are drawn."""
    from pyarrow import fs

    found = filesystem.get_file_info(fs.FileSelector(f"{base}/{UNFINISHED}"))
    return {info.base_name for info in found if info.extension == "parquet"}


def _gather(filesystem: "FileSystem", base: str, parts: list[Part]) -> "pa.Table":
    """Join the tables of all parts, in path order.

    Raises:
        StorageError: Workers wrote to a place that this process doesn't see.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    unseen = {part.table for part in parts} - _tables(filesystem, base)
    if unseen:
        raise StorageError(
            f"{len(unseen)} of {len(parts)} parts were drawn but are not there",
            base,
            "Name a folder that all nodes share, or a URI",
        )
    tables = []
    for part in parts:
        with filesystem.open_input_file(f"{base}/{UNFINISHED}/{part.table}") as file:
            tables.append(pq.read_table(file))
    return pa.concat_tables(tables).sort_by("path")
