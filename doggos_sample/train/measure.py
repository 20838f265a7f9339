"""Figures of a model on pictures that it was not trained on."""

from collections.abc import Iterable
from typing import Any

from doggos_sample.captions import WORDS, prompt
from doggos_sample.train.data import KEYS, Pool
from doggos_sample.train.model import image_embeddings, text_embeddings


def zero_shot(model: Any, tokenizer: Any, pool: Pool) -> dict[str, float]:
    """Return the accuracy by words for each attribute, where it can be seen."""
    images = image_embeddings(model, pool.pixels)
    result = {}
    for key in KEYS:
        values = list(WORDS[key])
        texts = text_embeddings(model, tokenizer, [prompt(key, v) for v in values])
        guess = (images @ texts.T).argmax(1).tolist()
        hits = [
            values[g] == row[key]
            for g, row in zip(guess, pool.rows, strict=True)
            if key in row["seen"].split()
        ]
        result[key] = round(_mean(hits), 4)
    return result


def _mean(hits: Iterable[bool]) -> float:
    every = list(hits)
    return sum(every) / max(len(every), 1)
