"""What the training minimises: the contrastive loss and helps that are not kept.

The helps say where the parts of the dog are and what each part shows. They act on the
vision tower's patch tokens and class token through linear heads that are thrown away,
so the saved model is a plain CLIP.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from doggos_sample.captions import WORDS
from doggos_sample.parts import PARTS
from doggos_sample.train.data import KEYS

OUTLINE = "outline"
"""Patches that hold both dog and background: fur shows there first."""

SHOWN_BY: dict[str, tuple[str, ...]] = {
    "coat": ("body", "head", "legs", "tail"),
    "pattern": ("body", "head"),
    "ears": ("ears",),
    "fur": ("body", OUTLINE),
    "legs": ("legs",),
    "tail": ("tail",),
    "pose": ("body", "legs"),
    "scene": ("background",),
}
"""The parts of a picture that show an attribute."""

GAZE = ("ears", "tail", "legs", "head")
"""The part that each of the last layer's first heads should look at; one is free."""

_COUNTS = [len(WORDS[key]) for key in KEYS]


def soft_loss(logits: Any, fits: Any) -> Any:
    """Return the contrastive loss where several pictures may fit a caption."""
    fits = fits.float()
    rows = log_softmax(logits, 1) * fits / fits.sum(1, keepdim=True)
    columns = log_softmax(logits, 0) * fits / fits.sum(0, keepdim=True)
    return -(rows.sum(1).mean() + columns.sum(0).mean()) / 2


def value_loss(logits: Any, truth: Any) -> Any:
    """Return the mean loss of choosing the value of each attribute.

    Args:
        logits: ``[n, all values]``, the attributes one after the other.
        truth: ``[n, attributes]``, -100 where an attribute is not seen.
    """
    total = logits.new_zeros(())
    for column, part in enumerate(logits.split(_COUNTS, 1)):
        wanted = truth[:, column]
        known = (wanted >= 0).sum().clamp(min=1)
        total = total + cross_entropy(part, wanted, reduction="sum") / known
    return total / len(_COUNTS)


def gaze_loss(gaze: Any, parts: Any) -> Any:
    """Return the loss of heads that do not look at their part, where it is seen.

    Args:
        gaze: ``[n, heads, patches]``, the weights of the class token's attention.
        parts: ``[n, patches, parts]``, shares.
    """
    wanted = parts[..., [PARTS.index(name) for name in GAZE]].transpose(1, 2)
    area = wanted.sum(-1)
    seen = (area > 0.1).float()
    there = wanted / area.clamp(min=1e-6)[..., None]
    looked = gaze[:, : len(GAZE)].float().clamp(min=1e-6).log()
    return -((there * looked).sum(-1) * seen).sum() / seen.sum().clamp(min=1)


class Helps(nn.Module):
    """Linear heads that are trained along and thrown away."""

    shown: torch.Tensor

    def __init__(self, width: int) -> None:
        """Build heads for a vision tower of that width."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.part = nn.Linear(width, len(PARTS))
        self.value = nn.Linear(width, sum(_COUNTS))
        self.whole = nn.Linear(width, sum(_COUNTS))
        every = (*PARTS, OUTLINE)
        shown = [[float(p in SHOWN_BY[key]) for p in every] for key in KEYS]
        columns = torch.tensor(shown).repeat_interleave(torch.tensor(_COUNTS), 0)
        self.register_buffer("shown", columns, persistent=False)

    def forward(self, tokens: Any, pooled: Any, parts: Any, truth: Any) -> Any:
        """Return the loss of naming parts, values by part, and values of the whole.

        Args:
            tokens: ``[n, patches, width]`` of the layer before the last.
            pooled: ``[n, width]``, the class token.
            parts: ``[n, patches, parts]``, shares.
            truth: As for `value_loss`.
        """
        tokens = self.norm(tokens)
        named = log_softmax(self.part(tokens).float(), -1)
        back = parts[..., :1]
        weight = torch.cat([parts, 4 * back * (1 - back)], -1) @ self.shown.T
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
        local = (self.value(tokens).float() * weight).sum(1)
        return (
            -(parts * named).sum(-1).mean()
            + value_loss(local, truth)
            + 0.5 * value_loss(self.whole(pooled).float(), truth)
        )
