"""Search: the images most similar to images, an embedding, a text or a known image."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.data.images import decode
from doggos_helpers.data.listing import CLASS, PATH, SPLIT
from doggos_helpers.embed.table import EMBEDDING, read_embeddings, read_record
from doggos_helpers.errors import SettingsError
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from doggos_helpers.clip.encoder import ClipEncoder
    from doggos_helpers.embed.table import Embeddings

IMAGES = "images"  # the table of LanceDB
SHOWN = 400  # characters that a message spends on classes
KNOWN = "Use a path as a search prints it, or --image with a file"
EXACT_ROWS = 10_000  # up to here comparing all takes a millisecond
TINY = 1e-12  # the length that a vector of nothing gets
PROBES, REFINE = 32, 10  # lists searched; candidates compared exactly, of each k


@dataclass(frozen=True)
class Match:
    """One image found; `score` is the cosine similarity with the query, -1 to 1."""

    path: str
    class_name: str
    split: str
    score: float


class Index:
    """Embedded images to search in: a table of LanceDB with a vector index.

    A query is compared with the nearest lists of rows, and with the best of them again,
    exactly.
    """

    def __init__(self, rows: Any, classes: Sequence[str]) -> None:
        """Keep the table; its vectors, float32 [d], stay where they are."""
        self.rows, self.classes = rows, classes
        self.dimension = rows.schema.field(EMBEDDING).type.list_size

    def __len__(self) -> int:
        """Return the number of images."""
        return self.rows.count_rows()

    def vector_of(self, path: str) -> np.ndarray:
        """Return the embedding of an image by its path, or raise SettingsError."""
        wanted = f"{PATH} = {quoted(path)}"
        found = self.rows.search().where(wanted).select([EMBEDDING]).limit(1).to_arrow()
        if not len(found):
            raise SettingsError("no such image in the index", path, KNOWN)
        return found[EMBEDDING].combine_chunks().flatten().to_numpy()

    def top_k(
        self, vector: np.ndarray, k: int, classes: Sequence[str] = (), split: str = ""
    ) -> list[Match]:
        """Find the k images most similar to a vector, best first.

        Args:
            vector: float32 [d], of any length.
            k: How many; fewer come back where there are fewer.
            classes: Only these classes; empty: all.
            split: Only this split; empty: all.

        Raises:
            SettingsError: k is not positive, or a class is not in the index.
        """
        if k < 1:
            raise SettingsError("k must be at least 1", f"k = {k}", "Ask for 1 or more")
        if unknown := sorted(set(classes) - set(self.classes)):
            names = textwrap.shorten(f"classes: {', '.join(self.classes)}", SHOWN)
            fix = "Filter by classes of the index"
            raise SettingsError(f"no images of class {', '.join(unknown)}", names, fix)
        return self._nearest(vector, k, classes, split)

    def _nearest(
        self, vector: np.ndarray, k: int, classes: Sequence[str], split: str
    ) -> list[Match]:
        query = self.rows.search(vector, vector_column_name=EMBEDDING).limit(k)
        query = query.distance_type("cosine").select([PATH, CLASS, SPLIT, "_distance"])
        query = query.nprobes(PROBES).refine_factor(REFINE)
        conditions = [f"{SPLIT} = {quoted(split)}"] if split else []
        if classes:
            conditions.append(f"{CLASS} IN ({', '.join(map(quoted, classes))})")
        if conditions:  # what they leave may lie in any list
            query = query.where(" AND ".join(conditions)).maximum_nprobes(0)
        return [
            Match(row[PATH], row[CLASS], row[SPLIT], 1 - row["_distance"])
            for row in query.to_list()
        ]

    def by_images(
        self, files: Sequence[bytes], encoder: "ClipEncoder", k: int, **only: Any
    ) -> list[Match]:
        """Find the k images most similar to image files: to the mean of their vectors.

        `files` are the bytes of each; `only` is `classes` and `split`, as of `top_k`.
        """
        pixels = np.stack([decode(data, encoder.preprocessing) for data in files])
        return self.top_k(encoder.encode_images(pixels).mean(axis=0), k, **only)

    def by_text(
        self, text: str, encoder: "ClipEncoder", k: int, **only: Any
    ) -> list[Match]:
        """Find the k images most similar to a text; `only` is as of `by_images`."""
        return self.top_k(encoder.encode_texts([text])[0], k, **only)


class SearchIndex(Index):
    """Exact search in memory: a query is compared with every row."""

    def __init__(self, embeddings: "Embeddings") -> None:
        """Keep the rows, and the number of each one's class."""
        self.embeddings, self.dimension = embeddings, embeddings.vectors.shape[1]
        names, self.numbers = np.unique(embeddings.classes, return_inverse=True)
        self.classes = names.tolist()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.embeddings)

    def vector_of(self, path: str) -> np.ndarray:
        """Return the embedding of an image by its path, or raise SettingsError."""
        found = np.flatnonzero(self.embeddings.paths == path)
        if not len(found):
            raise SettingsError("no such image in the index", path, KNOWN)
        return self.embeddings.vectors[found[0]]

    def _nearest(
        self, vector: np.ndarray, k: int, classes: Sequence[str], split: str
    ) -> list[Match]:
        rows = self.embeddings
        scores = rows.vectors @ vector / max(np.linalg.norm(vector), TINY)
        wanted = [self.classes.index(name) for name in classes]
        chosen = np.isin(self.numbers, wanted) if classes else np.full(len(rows), True)
        if split:
            chosen &= rows.splits == split
        left = np.flatnonzero(chosen)
        best = left[np.argsort(-scores[left], kind="stable")[:k]]
        return [
            Match(rows.paths[i], rows.classes[i], rows.splits[i], float(scores[i]))
            for i in best
        ]


def open_index(settings: Settings, update: bool = True) -> Index:
    """Open what there is to search in, and bring it up to date with the table.

    Up to `EXACT_ROWS` images the search is exact, in memory; above, it goes through a
    vector index on the storage, which is built when it is first opened. Without
    `update`, as replicas open it, it is only read.

    Raises:
        StorageError: There are no embeddings, or the index can't be read or written.
    """
    record = read_record(settings)
    if record["counts"]["embedded"] <= EXACT_ROWS:
        return SearchIndex(read_embeddings(settings))
    from doggos_helpers.search.stored import open_rows, update_index

    if update:
        update_index(settings)
    return Index(open_rows(settings), record["classes"])


def quoted(text: str) -> str:
    """Write a text as SQL does."""
    return "'" + text.replace("'", "''") + "'"
