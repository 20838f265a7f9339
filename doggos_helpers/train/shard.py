"""The rows that one of several workers learns from or is measured on."""

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
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
Rows = tuple[torch.Tensor, torch.Tensor]


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
        self.world, self.most_rows, self.device = world, most_rows, device
        self.total = contents.rows(split)
        self.first = self.total * rank // world
        self.last = self.total * (rank + 1) // world
        self.kept: Rows | None = None

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
        fits = len(self) <= self.most_rows
        each = steps if fits else max(1, steps * self.most_rows // (2 * len(self)))
        stretches = [edges[i : i + each + 1] for i in range(0, steps, each)]
        random = np.random.default_rng(seed)
        if seed is not None:
            random.shuffle(stretches)
        for bounds, (vectors, labels) in self._loaded(stretches, keep=fits):
            order = np.arange(len(labels))
            if seed is not None:
                random.shuffle(order)
            places = torch.as_tensor(order, device=self.device)
            for low, high in itertools.pairwise(bounds):
                chosen = places[low - bounds[0] : high - bounds[0]]
                batch = {EMBEDDING: vectors[chosen], LABEL: labels[chosen]}
                yield batch | {ROWS: self.total / (steps * self.world)}

    def _loaded(
        self, stretches: list[list[int]], keep: bool
    ) -> Iterator[tuple[list[int], Rows]]:
        if keep:
            self.kept = self.kept or self._read(self.first, self.last)
            yield from ((bounds, self.kept) for bounds in stretches)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, stretches[0][0], stretches[0][-1])
            for bounds, after in itertools.zip_longest(stretches, stretches[1:]):
                rows = coming.result()
                if after:
                    coming = reader.submit(self._read, after[0], after[-1])
                yield bounds, rows

    def _read(self, first: int, last: int) -> Rows:
        """Read the rows from `first` to `last` of the split."""
        vectors = np.empty((last - first, self.contents.dimension), np.float32)
        labels = np.empty(last - first, np.int64)
        wanted = LABELLED & (pc.field(SPLIT) == self.split)

        def fill(path: str, start: int, stop: int) -> None:
            rows = read_file(self.contents.folder, path, wanted)
            if len(rows) != stop - start:
                what = f"{len(rows)} rows where there were {stop - start}"
                raise StorageError(what, path, "Embed and train one after the other")
            low, high = max(first, start), min(last, stop)
            names = rows[CLASS].to_numpy()[low - start : high - start]
            found = vectors_of(rows)[low - start : high - start]
            vectors[low - first : high - first] = found
            labels[low - first : high - first] = np.searchsorted(self.classes, names)

        with ThreadPoolExecutor(READERS) as pool:
            asked, start = [], 0
            for path, count in self.contents.files.items():
                stop = start + count[self.split]
                if max(first, start) < min(last, stop):
                    asked.append(pool.submit(fill, path, start, stop))
                start = stop
            for one in asked:
                one.result()
        return (
            torch.as_tensor(vectors, device=self.device),
            torch.as_tensor(labels, device=self.device),
        )
