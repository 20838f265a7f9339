"""Search: the images most similar to images, an embedding, a text or a known image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from doggos_helpers.data.images import decode
from doggos_helpers.embed.table import Embeddings, read_embeddings, read_record
from doggos_helpers.errors import SettingsError
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from doggos_helpers.clip.encoder import ClipEncoder


SHOWN = 30  # classes that a message names
EXACT_ROWS = 100_000  # up to here comparing all takes milliseconds


@dataclass(frozen=True)
class Match:
    """One image found; `score` is the cosine similarity with the query, -1 to 1."""

    path: str
    class_name: str
    split: str
    score: float


class Index(ABC):
    """Embedded images to search in. Vectors are float32 [d], of length one."""

    classes: list[str]
    dimension: int

    def top_k(
        self, vector: np.ndarray, k: int, classes: Sequence[str] = (), split: str = ""
    ) -> list[Match]:
        """Find the k images most similar to a vector, best first.

        Args:
            vector: float32 [d], unit length.
            k: How many; fewer come back where there are fewer.
            classes: Only these classes; empty: all.
            split: Only this split; empty: all.

        Raises:
            SettingsError: k is not positive, or a class is not in the index.
        """
        if k < 1:
            raise SettingsError("k must be at least 1", f"k = {k}", "Ask for 1 or more")
        if unknown := sorted(set(classes) - set(self.classes)):
            more = len(self.classes) - SHOWN
            names = ", ".join(self.classes[:SHOWN])
            raise SettingsError(
                f"no images of class {', '.join(unknown)}",
                f"classes: {names}{f' and {more} more' if more > 0 else ''}",
                "Filter by classes of the index, with commas between",
            )
        return self._nearest(vector, k, classes, split)

    @abstractmethod
    def _nearest(
        self, vector: np.ndarray, k: int, classes: Sequence[str], split: str
    ) -> list[Match]:
        """Do what `top_k` says, with what it has checked."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def vector_of(self, path: str) -> np.ndarray:
        """Return the embedding of an image that is in the index, by its path.

        Raises:
            SettingsError: It isn't there.
        """

    def by_images(
        self,
        files: Sequence[bytes],
        encoder: "ClipEncoder",
        k: int,
        classes: Sequence[str] = (),
        split: str = "",
    ) -> list[Match]:
        """Find the k images most similar to image files: to the mean of their vectors.

        Args:
            files: The bytes of each.
            encoder: With the image tower.
            k: As of `top_k`, as are `classes` and `split`.
            classes: See there.
            split: See there.
        """
        pixels = np.stack([decode(data, encoder.preprocessing) for data in files])
        mean = encoder.encode_images(pixels).mean(axis=0)
        return self.top_k(mean / np.linalg.norm(mean), k, classes, split)

    def by_text(
        self,
        text: str,
        encoder: "ClipEncoder",
        k: int,
        classes: Sequence[str] = (),
        split: str = "",
    ) -> list[Match]:
        """Find the k images most similar to a text."""
        return self.top_k(encoder.encode_texts([text])[0], k, classes, split)


def not_indexed(path: str) -> SettingsError:
    """Build the sentence for a path that isn't there."""
    fix = "Use a path as a search prints it, or --image with a file"
    return SettingsError("no such image in the index", path, fix)


class SearchIndex(Index):
    """Exact search: every query is compared with every row.

    Args:
        embeddings: Unit-length vectors, float32 [n, d], with their rows.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        """Keep the rows; nothing is built."""
        self.embeddings = embeddings
        self.dimension = embeddings.vectors.shape[1]
        self.classes = sorted(set(embeddings.classes.tolist()))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.embeddings)

    def vector_of(self, path: str) -> np.ndarray:
        """Return the embedding of an image by its path."""
        found = np.flatnonzero(self.embeddings.paths == path)
        if not len(found):
            raise not_indexed(path)
        return self.embeddings.vectors[found[0]]

    def _nearest(
        self, vector: np.ndarray, k: int, classes: Sequence[str], split: str
    ) -> list[Match]:
        rows = self.embeddings
        wanted = np.ones(len(rows), bool)
        if classes:
            wanted &= np.isin(rows.classes, list(classes))
        if split:
            wanted &= rows.splits == split
        # Of all rows: choosing the wanted ones first would copy them.
        scores = np.where(wanted, rows.vectors @ vector, -np.inf)
        k = min(k, int(wanted.sum()))
        if not k:
            return []
        near = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        return [
            Match(
                path=str(rows.paths[row]),
                class_name=str(rows.classes[row]),
                split=str(rows.splits[row]),
                score=float(scores[row]),
            )
            for row in sorted(near, key=lambda row: -scores[row])[:k]
        ]


def open_index(settings: Settings, update: bool = True) -> Index:
    """Open what there is to search in, and bring it up to date with the table.

    Up to `EXACT_ROWS` images the search is exact, in memory; above, it goes through a
    vector index on the storage, which is built when it is first opened.

    Args:
        settings: Whose embeddings.
        update: Whether to build or update; replicas only read.

    Raises:
        StorageError: There are no embeddings, or the index can't be read or written.
    """
    if read_record(settings)["counts"]["embedded"] <= EXACT_ROWS:
        return SearchIndex(read_embeddings(settings))
    from doggos_helpers.search.vector_index import VectorIndex, update_index

    if update:
        update_index(settings)
    return VectorIndex(settings)
