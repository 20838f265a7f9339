"""Search: the images most similar to an image, an embedding or a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from doggos_helpers.data.images import decode
from doggos_helpers.embed.table import Embeddings
from doggos_helpers.errors import SettingsError

if TYPE_CHECKING:
    from doggos_helpers.clip.encoder import ClipEncoder


SHOWN = 30  # classes that a message names


@dataclass(frozen=True)
class Match:
    """One image found; `score` is the cosine similarity with the query."""

    path: str
    class_name: str
    split: str
    score: float


class SearchIndex:
    """Exact search: every query is compared with every row.

    Args:
        embeddings: Unit-length vectors, float32 [n, d], with their rows.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        """Keep the rows; nothing is built."""
        self.embeddings = embeddings

    def top_k(
        self, vector: np.ndarray, k: int, classes: Sequence[str] = ()
    ) -> list[Match]:
        """Find the k rows most similar to a unit vector, best first.

        Args:
            vector: float32 [d], unit length.
            k: How many; fewer come back where there are fewer.
            classes: Only these classes; empty: all.

        Raises:
            SettingsError: k is not positive, or a class is not in the index.
        """
        rows = self.embeddings
        if k < 1:
            raise SettingsError("k must be at least 1", f"k = {k}", "Ask for 1 or more")
        wanted = self.mask_of(classes)
        k = min(k, int(wanted.sum()))
        # Of all rows: choosing the wanted ones first would copy them.
        scores = np.where(wanted, rows.vectors @ vector, -np.inf)
        near = (
            np.flatnonzero(scores >= np.partition(scores, -k)[-k])
            if k
            else np.arange(0)
        )
        best = sorted(near, key=lambda row: -scores[row])[:k]
        return [
            Match(
                path=str(rows.paths[row]),
                class_name=str(rows.classes[row]),
                split=str(rows.splits[row]),
                score=float(scores[row]),
            )
            for row in best
        ]

    def mask_of(self, classes: Sequence[str]) -> np.ndarray:
        """Return which rows are of these classes, bool [n]; of none given: all.

        Raises:
            SettingsError: A class is not in the index.
        """
        if not classes:
            return np.ones(len(self.embeddings), bool)
        known = sorted(set(self.embeddings.classes))
        if unknown := sorted(set(classes) - set(known)):
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            raise SettingsError(
                f"no images of class {', '.join(unknown)}",
                f"classes: {', '.join(known[:SHOWN])}{more}",
                "Filter by classes of the index, with commas between",
            )
        return np.isin(self.embeddings.classes, list(classes))

    def by_image(
        self, data: bytes, encoder: "ClipEncoder", k: int, classes: Sequence[str] = ()
    ) -> list[Match]:
        """Find the k rows most similar to an image file's bytes."""
        pixels = decode(data, encoder.preprocessing)
        return self.top_k(encoder.encode_images(pixels[None])[0], k, classes)

    def by_text(
        self, text: str, encoder: "ClipEncoder", k: int, classes: Sequence[str] = ()
    ) -> list[Match]:
        """Find the k rows most similar to a text."""
        return self.top_k(encoder.encode_texts([text])[0], k, classes)
