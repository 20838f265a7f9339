"""The rows that one of several workers learns from or is measured on."""

import functools
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from doggos_helpers.data.listing import CLASS, SPLIT
from doggos_helpers.embed.table import (
    EMBEDDING,
    LABELLED,
    Contents,
    read_file,
    vectors_of,
)
from doggos_helpers.errors import StorageError

LABEL = "label"
ROWS = "rows"  # of an average step, by worker: what a loss is divided by
READERS = 4  # files read at a time


class Shard:
    """An even part of a split, in batches of tensors.

    Of the split's n rows, in the order of the table's files, worker `rank` of `world`
    has those from n * rank // world to n * (rank + 1) // world: none is left out or
    doubled. Where they fit they are read once and kept; otherwise they are read in
    stretches, in each epoch anew, the next one while the last one is used.

    Args:
        contents: Of the table.
        split: Such as "train".
        classes: The label set, sorted.
        rank: Of the worker, from 0.
        world: How many workers there are.
        most_rows: That fit; of stretches, two are held at a time.
        device: Where the batches shall be.
    """

    def __init__(
        self,
        contents: Contents,
        split: str,
        classes: list[str],
        rank: int = 0,
        world: int = 1,
        most_rows: int = 2**62,
        device: torch.device | str = "cpu",
    ) -> None:
        """Work out which rows; nothing is read."""
        self.contents, self.split, self.classes = contents, split, classes
        self.rank, self.world, self.device = rank, world, device
        rows = {p: n[split] for p, n in contents.files.items() if n[split]}
        # File i holds the rows of the split from edges[i] to edges[i + 1].
        self.files, self.edges = list(rows), np.cumsum([0, *rows.values()])
        self.total = contents.rows(split)
        self.first = self.total * rank // world
        self.last = self.total * (rank + 1) // world
        self.most_rows, self.fits = most_rows, len(self) <= most_rows
        # Of rows that fit, all stretches are kept.
        self.rows = functools.cache(self._read) if self.fits else self._read

    def __len__(self) -> int:
        """Return the number of rows of this worker."""
        return self.last - self.first

    def batches(self, size: int, seed: int | None = None) -> Iterator[dict]:
        """Give every row once, in as many batches as the other workers get.

        Batches differ by a row at most, and are empty where there are fewer rows than
        workers. Rows are shuffled within a stretch, and stretches among each other.

        Args:
            size: Rows of a batch, at most.
            seed: Of the order; None: that of the table.

        Yields:
            `embedding` float32 [n, d], `label` int64 [n], and `rows`: how many a worker
            has in an average step. The sum of losses over `rows`, averaged over the
            workers, gives each row of the split the same weight.

        Raises:
            StorageError: A file can't be read, or has changed.
        """
        steps = math.ceil(self.total / (size * self.world))
        edges = [self.first + len(self) * step // steps for step in range(steps + 1)]
        each = max(1, steps * self.most_rows // (2 * max(1, len(self))))
        stretches = [edges[i : i + each + 1] for i in range(0, steps, each)]
        order = np.random.default_rng(seed)
        if seed is not None:
            order.shuffle(stretches)
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.rows, stretches[0][0], stretches[0][-1])
            for bounds, after in itertools.zip_longest(stretches, stretches[1:]):
                vectors, labels = coming.result()
                if after:
                    coming = reader.submit(self.rows, after[0], after[-1])
                places = np.arange(len(labels))
                if seed is not None:
                    order.shuffle(places)
                sizes = np.diff(bounds).tolist()
                for chosen in torch.as_tensor(places, device=self.device).split(sizes):
                    batch = {EMBEDDING: vectors[chosen], LABEL: labels[chosen]}
                    yield batch | {ROWS: self.total / (steps * self.world)}

    def _read(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a stretch: the rows from `first` to `last` of the split."""
        # Where there are no rows, one file more: an empty table has their shape.
        low = np.searchsorted(self.edges, first, "right") - 1
        high = np.searchsorted(self.edges, max(last, first + 1))
        wanted = LABELLED & (pc.field(SPLIT) == self.split)
        with ThreadPoolExecutor(READERS) as pool:
            read = functools.partial(read_file, self.contents.folder, rows=wanted)
            table = pa.concat_tables(pool.map(read, self.files[low:high]))
        start, stop = self.edges[low], self.edges[high]
        if len(table) != stop - start:
            what = f"{len(table)} rows where there were {stop - start}"
            fix = "Embed and train one after the other"
            raise StorageError(what, self.files[low], fix)
        table = table.slice(first - start, last - first)
        labels = np.searchsorted(self.classes, table[CLASS].to_numpy())
        rows = torch.tensor(vectors_of(table)), torch.tensor(labels)
        return rows[0].to(self.device), rows[1].to(self.device)
