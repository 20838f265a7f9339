"""What to draw: a data set as a job, and the parts that workers draw of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from doggos_sample import BREEDS, VERSION
from doggos_sample.dataset import draw

TABLE, UNFINISHED = "attributes.parquet", "_unfinished"
MOST = 1_000_000


class SampleError(ValueError):
    """Something that a caller can mend: what is wrong, where, and the fix."""


class PartsUnseen(SampleError):
    """Workers wrote to a place that this process doesn't see."""


@dataclass(frozen=True)
class Part:
    """Some pictures of one breed."""

    filesystem: FileSystem
    base: str
    breed: str
    start: int
    stop: int
    seed: int

    @property
    def table(self) -> str:
        """Name of the file of its attributes, below `UNFINISHED`."""
        return f"{self.breed}_{self.start:06d}_{self.stop:06d}.parquet"

    def draw(self) -> int:
        """Draw and write the pictures, then their attributes; return how many."""
        filesystem, base, rows = self.filesystem, self.base, []
        for index in range(self.start, self.stop):
            data, row = draw(self.breed, index, self.seed)
            with filesystem.open_output_stream(f"{base}/{row['path']}") as file:
                file.write(data)
            rows.append(row)
        path = f"{base}/{UNFINISHED}/{self.table}"
        pq.write_table(_typed(pa.Table.from_pylist(rows)), path, filesystem=filesystem)
        return len(rows)


def _typed(table: pa.Table) -> pa.Table:
    """Give the column that is often all null its type."""
    at = table.schema.get_field_index("duplicate_of")
    column = table["duplicate_of"].cast(pa.string())
    return table.set_column(at, "duplicate_of", column)


Runner = Callable[[Sequence[Part]], Iterator[int]]
"""Draws parts in parallel, and yields the pictures of each as it is done."""


@dataclass(frozen=True)
class Written:
    """A complete data set: its images and bytes, and how many were drawn just now."""

    images: int
    bytes: int
    drawn: int


@dataclass(frozen=True)
class Job:
    """A data set to draw: what, by whom, and whether with a progress bar."""

    images_per_breed: int
    seed: int
    run: Runner | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not 1 <= self.images_per_breed <= MOST:
            fix = f"Give 1 to {MOST:,}"
            raise SampleError("wrong images_per_breed", str(self.images_per_breed), fix)

    @property
    def plan(self) -> dict[str, str]:
        """What makes two data sets the same."""
        numbers = {"images_per_breed": self.images_per_breed, "seed": self.seed}
        return {"version": VERSION} | {k: str(v) for k, v in numbers.items()}

    @property
    def total(self) -> int:
        """The number of images."""
        return self.images_per_breed * len(BREEDS)

    def parts(self, filesystem: FileSystem, base: str) -> list[Part]:
        """Cut the data set into parts, all breeds in turn."""
        step, each = (20 if self.total < 4_000 else 100), self.images_per_breed
        return [
            Part(filesystem, base, breed, start, min(start + step, each), self.seed)
            for start in range(0, each, step)
            for breed in BREEDS
        ]
