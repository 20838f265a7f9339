"""Turns a pool into training batches: zoomed and mirrored pictures, and captions."""

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from doggos_sample.captions import WORDS, caption, stated
from doggos_sample.parts import LEAST, PARTS
from doggos_sample.train.data import COARSE, KEYS, SIZE, Pool

_GROUP = 8


@dataclass
class Batch:
    """Pictures, captions, and what fits.

    Attributes:
        pixels: ``[n, 3, s, s]``, 0 to 255.
        captions: Tokens of a caption for each picture.
        fits: ``[n, n]``, whether a picture (row) fits a caption.
        questions: Tokens of captions that ask for one value of one attribute each.
        truth: ``[n, attributes]``, the value's number, -100 where it is not seen.
        parts: ``[n, tokens, parts]``, the share of each part in each patch.
        again: The first quarter of the pictures, a fraction of a pixel off and grainy.
    """

    pixels: Any
    captions: Any
    fits: Any
    questions: Any
    truth: Any
    parts: Any
    again: Any


class Batches:
    """Draws batches from a pool; a step's batch depends on the seed alone."""

    def __init__(
        self, pool: Pool, tokenizer: Any, size: int, grid: int, seed: int
    ) -> None:
        """Prepare to draw batches of so many pictures of ``grid**2`` patches."""
        import torch

        self.tokenizer, self.size, self.grid, self.seed = tokenizer, size, grid, seed
        self.pixels = torch.from_numpy(pool.pixels)
        self.parts = torch.from_numpy(pool.parts)
        self.rows = pool.rows
        self.codes = np.array(
            [[list(WORDS[k]).index(row[k]) for k in KEYS] for row in pool.rows]
        )
        self.seen = np.array(
            [[k in r["seen"].split() for k in KEYS] for r in pool.rows]
        )

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        import torch

        rng = Random(f"batch/{self.seed}/{step}")
        chosen = [rng.randrange(len(self.rows)) for _ in range(self.size)]
        pixels, parts, share = self._pictures(chosen, rng)
        seen = self.seen[chosen]
        for name, least in LEAST.items():
            column = KEYS.index(name)
            seen[:, column] &= share[:, PARTS.index(name)] >= least
        codes = self.codes[chosen]
        texts, wanted = self._captions(chosen, seen, rng)
        fits = ((codes[:, None] == wanted[None]) | (wanted[None] < 0)).all(-1)
        truth = np.where(seen, codes, -100)
        return Batch(
            pixels,
            self._tokens(texts),
            torch.from_numpy(fits),
            self._tokens(_questions(rng)),
            torch.from_numpy(truth),
            parts,
            _resampled(pixels[: self.size // 4], rng),
        )

    def _captions(
        self, chosen: list[int], seen: np.ndarray, rng: Random
    ) -> tuple[list[str], np.ndarray]:
        texts, wanted = [], np.full((len(chosen), len(KEYS)), -1)
        for place, index in enumerate(chosen):
            row = self.rows[index]
            known = {k: row[k] for k, s in zip(KEYS, seen[place], strict=True) if s}
            facts = stated(known, rng, rng.choice((0.2, 0.4, 0.7)))
            texts.append(caption(facts, rng))
            for column, key in enumerate(KEYS):
                if key in facts:
                    wanted[place, column] = self.codes[index, column]
        return texts, wanted

    def _tokens(self, texts: list[str]) -> Any:
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")

    def _pictures(self, chosen: list[int], rng: Random) -> tuple[Any, Any, Any]:
        """Return pictures, part shares by patch, and part shares of the picture."""
        import torch

        pixels, parts, shares = [], [], []
        for start in range(0, len(chosen), _GROUP):
            group = chosen[start : start + _GROUP]
            image, coarse = self.pixels[group].float(), self.parts[group]
            if rng.random() < 0.5:
                image, coarse = image.flip(-1), coarse.flip(-1)
            whole = torch.nn.functional.one_hot(coarse.long(), len(PARTS)).float()
            image, part, share = _zoomed(image, whole.permute(0, 3, 1, 2), rng)
            gain = [[rng.uniform(0.93, 1.07) for _ in "rgb"] for _ in group]
            pixels.append(image * torch.tensor(gain)[..., None, None])
            pooled = torch.nn.functional.adaptive_avg_pool2d(part, self.grid)
            parts.append(pooled.flatten(2).transpose(1, 2))
            shares.append(share)
        return (
            torch.cat(pixels).clamp_(0, 255),
            torch.cat(parts),
            torch.cat(shares).numpy(),
        )


def _resampled(pixels: Any, rng: Random) -> Any:
    """Return pictures as another decoder or resize might give them.

    Shifted by a fraction of a pixel, about as large, with a little noise.
    """
    import torch

    count, side = len(pixels), pixels.shape[-1]
    moves = []
    for _ in range(count):
        size = rng.uniform(0.993, 1.007)
        x, y = (rng.uniform(-1.4, 1.4) / side for _ in "xy")
        moves.append([[size, 0.0, x], [0.0, size, y]])
    grid = torch.nn.functional.affine_grid(
        torch.tensor(moves), list(pixels.shape), align_corners=False
    )
    moved = torch.nn.functional.grid_sample(
        pixels, grid, padding_mode="border", align_corners=False
    )
    noise = torch.Generator().manual_seed(rng.getrandbits(32))
    grain = torch.randn(moved.shape, generator=noise) * torch.tensor(
        [rng.uniform(0, 3) for _ in range(count)]
    ).view(-1, 1, 1, 1)
    return (moved + grain).clamp_(0, 255)


def _zoomed(image: Any, parts: Any, rng: Random) -> tuple[Any, Any, Any]:
    """Return a random part of the pictures, in full size, half of the time.

    The shares count what a zoom has not cut: they are about nought where it cut much.
    """
    import torch

    before = parts.mean((2, 3))
    if rng.random() < 0.4:
        return image, parts, torch.ones_like(before)
    side = rng.randint(40, 55)
    y, x = (rng.randint(0, SIZE // COARSE - side) for _ in "yx")
    parts = parts[:, :, y : y + side, x : x + side]
    after = parts.mean((2, 3)) * (side * COARSE / SIZE) ** 2
    y, x, side = COARSE * y, COARSE * x, COARSE * side
    image = torch.nn.functional.interpolate(
        image[:, :, y : y + side, x : x + side], size=(SIZE, SIZE), mode="bilinear"
    )
    return image, parts, torch.where(after > 0.7 * before, after, 0.0)


def _questions(rng: Random) -> list[str]:
    """Return a caption for each value of each attribute, in the order of `WORDS`."""
    texts = []
    for key in KEYS:
        wording = rng.getrandbits(32)
        texts += [caption({key: value}, Random(wording)) for value in WORDS[key]]
    return texts
