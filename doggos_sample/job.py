"""What to draw: a data set as a job, and the parts that workers draw of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from doggos_helpers.data.files import open_root
from doggos_helpers.errors import SettingsError
from doggos_helpers.settings import Settings
from doggos_sample import BREEDS, VERSION
from doggos_sample.dataset import draw

if TYPE_CHECKING:
    import pyarrow as pa

TABLE, UNFINISHED = "attributes.parquet", "_unfinished"
MANY = 4_000
"""Pictures from which on they are drawn on Ray: fewer are done before Ray is up."""

MOST = 1_000_000


@dataclass(frozen=True)
class Part:
    """Some pictures of one breed."""

    root: str
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
        import pyarrow as pa
        import pyarrow.parquet as pq

        filesystem, base = open_root(self.root)
        rows = []
        for index in range(self.start, self.stop):
            data, row = draw(self.breed, index, self.seed)
            with filesystem.open_output_stream(f"{base}/{row['path']}") as file:
                file.write(data)
            rows.append(row)
        path = f"{base}/{UNFINISHED}/{self.table}"
        pq.write_table(_typed(pa.Table.from_pylist(rows)), path, filesystem=filesystem)
        return len(rows)


def _typed(table: "pa.Table") -> "pa.Table":
    """Give the column that is often all null its type."""
    import pyarrow as pa

    at = table.schema.get_field_index("duplicate_of")
    column = table["duplicate_of"].cast(pa.string())
    return table.set_column(at, "duplicate_of", column)


@dataclass(frozen=True)
class Written:
    """A complete data set: its images and bytes, and how many were drawn just now."""

    images: int
    bytes: int
    drawn: int


@dataclass(frozen=True)
class Job:
    """A data set to draw: what, and how."""

    images_per_breed: int
    seed: int
    workers: int
    settings: Settings

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if not 1 <= self.images_per_breed <= MOST:
            fix = f"Give 1 to {MOST:,}"
            raise SettingsError(
                "wrong images_per_breed", str(self.images_per_breed), fix
            )
        if self.workers < 0:
            fix = "Give 0 (one a core) or more"
            raise SettingsError("wrong workers", str(self.workers), fix)

    @property
    def plan(self) -> dict[str, str]:
        """What makes two data sets the same."""
        numbers = {"images_per_breed": self.images_per_breed, "seed": self.seed}
        return {"version": VERSION} | {k: str(v) for k, v in numbers.items()}

    @property
    def total(self) -> int:
        """The number of images."""
        return self.images_per_breed * len(BREEDS)

    def parts(self, root: str) -> list[Part]:
        """Cut the data set into parts, all breeds in turn."""
        step = 20 if self.total < MANY else 100
        return [
            Part(
                root, breed, start, min(start + step, self.images_per_breed), self.seed
            )
            for start in range(0, self.images_per_breed, step)
            for breed in BREEDS
        ]
