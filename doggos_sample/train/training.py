"""The training loop: steps, learning rate, averaged weights, checkpoints."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from doggos_sample.train.batches import Batch, Batches
from doggos_sample.train.data import SIZE, Pool
from doggos_sample.train.losses import Helps, gaze_loss, soft_loss, value_loss
from doggos_sample.train.model import (
    PATCH,
    WIDTH,
    build_model,
    build_tokenizer,
    normalised,
)

WARM_UP = 60
AVERAGE = 0.998
GAZE_WEIGHT = 0.2
STEADY_WEIGHT = 20.0


class Trainer:
    """A model in training, with what a checkpoint holds.

    Args:
        args: The command line; see ``python -m doggos_sample.train``.
        pool: What to learn from.
    """

    def __init__(self, args: argparse.Namespace, pool: Pool) -> None:
        """Build the model, or continue where a checkpoint in the work folder ends."""
        torch.set_num_threads(args.threads)
        keep_memory()
        self.args = args
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = build_tokenizer()
        self.model = build_model(args.seed).to(self.device).train()
        # The fused attention's backward pass takes half of a CPU step.
        self.model.set_attn_implementation("eager")
        self.helps = Helps(WIDTH).to(self.device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE),
        )
        self.optimiser = torch.optim.AdamW(
            [*self.model.parameters(), *self.helps.parameters()],
            lr=args.rate,
            fused=True,
            weight_decay=0.05,
            betas=(0.9, 0.98),
        )
        self.state: dict[str, Any] = {
            "step": 0,
            "seconds": 0.0,
            "curve": [],
            "stages": [],
        }
        self.batches = Batches(
            pool, self.tokenizer, args.batch, SIZE // PATCH, args.seed
        )
        self.file = args.work / "checkpoint.pt"
        self._resume()
        stage = {"from_step": self.state["step"], "images": len(pool.rows)}
        self.state["stages"].append({**stage, "rate": args.rate, "note": args.note})

    def run(self, report: Callable[["Trainer"], None]) -> None:
        """Train until the steps or minutes are used up; report at each checkpoint."""
        args, state = self.args, self.state
        started = time.monotonic() - state["seconds"]
        done = state["step"] >= args.steps
        while not done:
            step = state["step"]
            progress = max(step / args.steps, state["seconds"] / (60 * args.minutes))
            for group in self.optimiser.param_groups:
                group["lr"] = rate_at(step, progress, args.rate)
            losses = self.step(self.batches.draw(step))
            state.update(step=step + 1, seconds=time.monotonic() - started)
            done = progress >= 1 or step + 1 >= args.steps
            if step % 25 == 0 or done:
                state["curve"].append(
                    [step, *(round(x, 4) for x in losses), round(state["seconds"], 1)]
                )
                print(*state["curve"][-1], flush=True)
            if (step + 1) % args.every == 0 or done:
                self._checkpoint()
                report(self)

    def step(self, batch: Batch) -> tuple[float, float]:
        """Take one step; return its contrastive loss and that of the helps."""
        model, device = self.model, self.device
        truth, parts = batch.truth.to(device), batch.parts.to(device)
        with torch.autocast(device, torch.bfloat16):
            tokens, pooled, gaze = look(model.vision_model, batch.pixels.to(device))
            images = unit(model.visual_projection(pooled))
            _, pooled_again, _ = look(model.vision_model, batch.again.to(device))
            again = unit(model.visual_projection(pooled_again))
            texts, questions = (
                unit(model.get_text_features(**words.to(device)).pooler_output)
                for words in (batch.captions, batch.questions)
            )
            helps = self.helps(tokens, pooled, parts, truth)
        helps = helps + GAZE_WEIGHT * gaze_loss(gaze, parts)
        unsteady = 1 - (images[: len(again)] * again).sum(-1).mean()
        helps = helps + STEADY_WEIGHT * unsteady
        scale = model.logit_scale.exp()
        match = soft_loss(scale * images @ texts.T, batch.fits.to(device))
        match = match + 2 * value_loss(scale * images @ questions.T, truth)
        self.optimiser.zero_grad(set_to_none=True)
        (match + self.args.helps * helps).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.1)
        self.average.update_parameters(model)
        return match.item(), helps.item()

    def _parts(self) -> tuple[Any, ...]:
        return self.model, self.helps, self.average, self.optimiser

    def _checkpoint(self) -> None:
        """Write a checkpoint, replacing the one before."""
        parts = [part.state_dict() for part in self._parts()]
        new = self.file.with_suffix(".new")
        torch.save({"parts": parts, "state": self.state}, new)
        os.replace(new, self.file)

    def _resume(self) -> None:
        if not self.file.exists():
            return
        saved = torch.load(self.file, weights_only=True)
        for part, values in zip(self._parts(), saved["parts"], strict=True):
            part.load_state_dict(values)
        self.state = saved["state"]
        print(f"continuing at step {self.state['step']}", flush=True)


def look(tower: Any, pixels: Any) -> tuple[Any, Any, Any]:
    """Run a vision tower without what its last layer does to patches.

    The class token alone is kept, so a fifth of the work would be for nothing.

    Returns:
        The patch tokens before the last layer ``[n, patches, width]``, the class token
        after it, as the tower's ``pooler_output``, and how much each of the last
        layer's heads looks at each patch, ``[n, heads, patches]``.
    """
    hidden = tower.pre_layrnorm(tower.embeddings(normalised(pixels)))
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = layer(hidden, None)
    inside, heads = last.layer_norm1(hidden), last.self_attn.num_heads
    query, key, value = (
        project(part).unflatten(-1, (heads, -1)).transpose(1, 2)
        for project, part in (
            (last.self_attn.q_proj, inside[:, :1]),
            (last.self_attn.k_proj, inside),
            (last.self_attn.v_proj, inside),
        )
    )
    weight = (query @ key.transpose(-1, -2) * last.self_attn.scale).softmax(-1)
    seen = (weight @ value).transpose(1, 2).flatten(2)
    token = hidden[:, :1] + last.self_attn.out_proj(seen)
    token = token + last.mlp(last.layer_norm2(token))
    return hidden[:, 1:], tower.post_layernorm(token[:, 0]), weight[:, :, 0, 1:]


def unit(vectors: Any) -> Any:
    """Return vectors of length one."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def rate_at(step: int, progress: float, peak: float) -> float:
    """Return the learning rate: a linear warm-up, then half a cosine to zero."""
    fall = 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
    return float(peak * min((step + 1) / WARM_UP, 1.0) * max(fall, 1e-3))


def keep_memory() -> None:
    """Tell glibc to keep freed memory: page faults cost a CPU run half its time."""
    import ctypes

    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            if mallopt:
                mallopt(option, value)
