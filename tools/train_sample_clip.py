"""Trains the small CLIP of the sample and writes its folder.

The model sees drawn dogs of random attribute combinations that no breed has, with
captions in everyday words and never a breed's name. Pictures that fit a caption are
positives for it, so targets are soft. A run is seeded and can be resumed::

    python tools/train_sample_clip.py --minutes 25 --work /tmp/sample-clip
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from doggos_helpers.sample import MODEL_DIR
from doggos_helpers.sample.breeds import TABLE
from doggos_helpers.sample.captions import WORDS, caption, prompt, stated, vocabulary
from doggos_helpers.sample.picture import random_framing, render
from doggos_helpers.sample.traits import (
    ATTRIBUTES,
    at_random,
    breed_combinations,
    combinations,
)

SIZE, PATCH = 112, 16
PART = 200
TOKENS = 32
SPECIAL = ("<pad>", "<bos>", "<unk>", "<eos>")
MEAN, STD = 0.5, 0.25
KEYS = (*ATTRIBUTES, "pose", "scene")


def training_combinations() -> list[dict[str, str]]:
    """Return the attribute combinations that no breed has."""
    taken = set().union(*(breed_combinations(breed) for breed in TABLE.values()))
    return [c for c in combinations() if tuple(c.values()) not in taken]


# ---- pictures ----------------------------------------------------------------


def visible(values: Mapping[str, str], view: str, occluded: bool) -> list[str]:
    """Name the attributes that the picture shows; a lying dog's legs are hidden."""
    hidden = set()
    if values["pose"] == "lying" or view == "front" or occluded:
        hidden.add("legs")
    if view == "front" and values["tail"] == "docked":
        hidden.add("tail")
    return [name for name in values if name not in hidden]


def draw_training(
    task: tuple[int, int, int],
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Draw pictures first to last of a seed, preprocessed; runs in a worker."""
    from PIL import Image

    seed, first, last = task
    processor = build_processor()
    every = training_combinations()
    pixels, rows = [], []
    for index in range(first, last):
        rng = Random(f"train/{seed}/{index}")
        values = _balanced(every, rng)
        frame = random_framing(rng, rng.randint(170, 300))
        image = Image.fromarray(render(at_random(rng, values), frame, rng))
        out = processor(image, do_rescale=False, do_normalize=False)
        pixels.append(np.asarray(out["pixel_values"][0]).astype(np.uint8))
        row = {**values, "pose": frame.pose, "scene": frame.scene}
        rows.append({**row, "seen": " ".join(visible(row, frame.view, frame.occluded))})
    return np.stack(pixels), rows


def _balanced(every: Sequence[dict[str, str]], rng: Random) -> dict[str, str]:
    """Draw a combination in which each value of the pattern is as likely."""
    pattern = rng.choice(ATTRIBUTES["pattern"])
    while True:
        values = rng.choice(every)
        if values["pattern"] == pattern:
            return values


@dataclass
class Pool:
    """Preprocessed pictures and what they show."""

    pixels: np.ndarray
    rows: list[dict[str, str]]

    def facts(self, index: int) -> dict[str, str]:
        """Return what can be stated about a picture."""
        row = self.rows[index]
        return {k: row[k] for k in row["seen"].split()}


def make_pool(work: Path, name: str, seed: int, count: int, workers: int) -> Pool:
    """Draw pictures in parts, keeping those that an earlier run has drawn."""
    parts = [(i, min(i + PART, count)) for i in range(0, count, PART)]
    files = {part: work / f"{name}-{seed}-{part[0]}-{part[1]}.npz" for part in parts}
    tasks = [(seed, *part) for part in parts if not files[part].exists()]
    if tasks:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for task, (pixels, rows) in zip(
                tasks, pool.map(draw_training, tasks), strict=True
            ):
                new = work / "part.npz"
                np.savez(new, pixels=pixels, rows=json.dumps(rows))
                os.replace(new, files[task[1:]])
                print(f"{name}: drawn {task[2]} of {count}", flush=True)
    loaded = [np.load(path) for path in files.values()]
    rows = [row for part in loaded for row in json.loads(str(part["rows"]))]
    return Pool(np.concatenate([part["pixels"] for part in loaded]), rows)


# ---- model -------------------------------------------------------------------


def build_processor() -> Any:
    """Return the image processor: shortest edge, centre crop, normalise."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


def build_tokenizer() -> Any:
    """Return a lower-casing word tokenizer with tokens of its own."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, bos, unk, eos = SPECIAL
    ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    words = Tokenizer(models.WordLevel(ids, unk_token=unk))
    words.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, ids[bos]), (eos, ids[eos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        bos_token=bos,
        unk_token=unk,
        eos_token=eos,
        model_max_length=TOKENS,
        padding_side="right",
    )


def build_model(words: int, seed: int) -> Any:
    """Return an untrained CLIP."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    text = dict(
        hidden_act="gelu",
        vocab_size=words + len(SPECIAL),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=128,
        **ids,
    )
    vision = dict(
        hidden_act="gelu",
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    for key, value in ids.items():
        setattr(config, key, value)
    return CLIPModel(config)


def save(model: Any, folder: Path, report: Mapping[str, Any]) -> None:
    """Write the folder: weights in half precision, tokenizer, processor, words."""
    import copy

    import torch

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).cpu().to(torch.float16)
    half.config.dtype = torch.float32
    half.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    words = [w for w in vocabulary() if w.isalpha()]
    _write_json(folder / "words.json", words)
    _write_json(folder / "training_report.json", report)
    for path in folder.iterdir():
        path.chmod(0o644)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def normalised(pixels: Any) -> Any:
    """Turn ``uint8`` pixels into what the image tower takes."""
    return (pixels.float() / 255 - MEAN) / STD


def image_embeddings(model: Any, pixels: np.ndarray) -> Any:
    """Return unit-length embeddings ``[n, d]`` of preprocessed pictures."""
    import torch

    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 256):
            batch = torch.from_numpy(np.array(pixels[start : start + 256])).to(device)
            out = model.get_image_features(pixel_values=normalised(batch))
            parts.append(torch.nn.functional.normalize(out.pooler_output, dim=-1).cpu())
    return torch.cat(parts)


def text_embeddings(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return unit-length embeddings ``[n, d]`` of texts."""
    import torch

    device = next(model.parameters()).device
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        out = model.get_text_features(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        )
    return torch.nn.functional.normalize(out.pooler_output, dim=-1).cpu()


# ---- training ----------------------------------------------------------------


@dataclass
class Batch:
    """Pictures, captions, and what fits.

    The texts are one caption a picture, then for each attribute one caption a value
    that differ in one word. `fits` is ``[images, images]``; `truth` is ``[images,
    attributes]``, the value's number or -100 where the picture does not show it.
    """

    pixels: Any
    tokens: Any
    fits: Any
    truth: Any


class Batches:
    """Draws batches from a pool."""

    def __init__(self, pool: Pool, tokenizer: Any, size: int, seed: int) -> None:
        """Prepare to draw."""
        self.pool, self.tokenizer, self.size = pool, tokenizer, size
        self.seed = seed
        self.codes = np.array(
            [[list(WORDS[k]).index(row[k]) for k in KEYS] for row in pool.rows]
        )
        self.seen = np.array(
            [[k in r["seen"].split() for k in KEYS] for r in pool.rows]
        )

    def draw(self, step: int) -> Batch:
        """Return the batch of a step: the same for the same seed."""
        import torch

        rng = Random(f"batch/{self.seed}/{step}")
        chosen = [rng.randrange(len(self.pool.rows)) for _ in range(self.size)]
        pixels = np.stack([self._augmented(i, rng) for i in chosen])
        texts, wanted = [], []
        for index in chosen:
            facts = stated(self.pool.facts(index), rng, rng.choice((0.2, 0.5, 0.8)))
            texts.append(caption(facts, rng))
            wanted.append(
                [list(WORDS[k]).index(facts[k]) if k in facts else -1 for k in KEYS]
            )
        for key in KEYS:
            wording = rng.getrandbits(32)
            texts += [caption({key: v}, Random(wording)) for v in WORDS[key]]
        codes, want = self.codes[chosen][:, None], np.array(wanted)[None]
        fits = ((codes == want) | (want < 0)).all(-1)
        truth = np.where(self.seen[chosen], self.codes[chosen], -100)
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, return_tensors="pt"
        )
        return Batch(
            torch.from_numpy(pixels),
            tokens,
            torch.from_numpy(fits),
            torch.from_numpy(truth),
        )

    def _augmented(self, index: int, rng: Random) -> np.ndarray:
        image = self.pool.pixels[index]
        if rng.random() < 0.5:
            image = image[:, :, ::-1]
        dx, dy = rng.randint(-5, 5), rng.randint(-5, 5)
        rows = np.clip(np.arange(SIZE) + dy, 0, SIZE - 1)
        columns = np.clip(np.arange(SIZE) + dx, 0, SIZE - 1)
        return image[:, rows][:, :, columns]


def soft_loss(logits: Any, fits: Any) -> Any:
    """Return the contrastive loss where several pictures may fit a caption."""
    import torch

    fits = fits.float()
    rows = torch.log_softmax(logits, 1) * fits / fits.sum(1, keepdim=True)
    columns = torch.log_softmax(logits, 0) * fits / fits.sum(0, keepdim=True)
    return -(rows.sum(1).mean() + columns.sum(0).mean()) / 2


def word_loss(logits: Any, truth: Any) -> Any:
    """Return the loss of choosing, for each attribute, among captions by its word."""
    import torch

    parts, start = [], 0
    for column, key in enumerate(KEYS):
        stop = start + len(WORDS[key])
        parts.append(
            torch.nn.functional.cross_entropy(logits[:, start:stop], truth[:, column])
        )
        start = stop
    return torch.stack(parts).mean()


def train(args: argparse.Namespace, pool: Pool, held: Pool) -> None:
    """Train until the steps are done, saving a checkpoint now and then."""
    import torch

    torch.set_num_threads(args.threads)
    keep_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer()
    model = build_model(len(vocabulary()), args.seed).to(device).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=args.rate, weight_decay=0.05, betas=(0.9, 0.98)
    )
    state = {"step": 0, "seconds": 0.0, "curve": []}
    resume(args.work / "checkpoint.pt", model, optimiser, state)
    batches = Batches(pool, tokenizer, args.batch, args.seed)
    started = time.monotonic() - state["seconds"]
    done = state["step"] >= args.steps
    while not done:
        step = state["step"]
        progress = max(step / args.steps, state["seconds"] / (60 * args.minutes))
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, progress, args.rate)
        loss = train_step(model, optimiser, batches.draw(step), device)
        state.update(step=step + 1, seconds=time.monotonic() - started)
        done = progress >= 1 or step + 1 >= args.steps
        if step % 25 == 0 or done:
            state["curve"].append([step, round(loss, 4), round(state["seconds"], 1)])
            print(*state["curve"][-1], flush=True)
        if (step + 1) % args.every == 0 or done:
            checkpoint(args.work / "checkpoint.pt", model, optimiser, state)
            finish(args, model, tokenizer, pool, held, state)


def rate_at(step: int, progress: float, peak: float) -> float:
    """Return the learning rate: 60 steps of warm-up, then half a cosine to zero."""
    fall = 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
    return float(peak * min((step + 1) / 60, 1.0) * max(fall, 1e-3))


def train_step(model: Any, optimiser: Any, batch: Batch, device: str) -> float:
    """Take one step and return its loss."""
    import torch

    with torch.autocast(device, torch.bfloat16):
        out = model(
            input_ids=batch.tokens["input_ids"].to(device),
            attention_mask=batch.tokens["attention_mask"].to(device),
            pixel_values=normalised(batch.pixels.to(device)),
        )
    logits, images = out.logits_per_image.float(), len(batch.pixels)
    loss = soft_loss(logits[:, :images], batch.fits.to(device))
    loss = loss + 2 * word_loss(logits[:, images:], batch.truth.to(device))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, 4.1)
    return loss.item()


def keep_memory() -> None:
    """Tell glibc to keep freed memory: page faults cost a CPU run half its time."""
    import ctypes

    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            if mallopt:
                mallopt(option, value)


def checkpoint(path: Path, model: Any, optimiser: Any, state: Any) -> None:
    """Write a checkpoint, replacing the one before."""
    import torch

    parts = [part.state_dict() for part in (model, optimiser)]
    torch.save({"parts": parts, "state": state}, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def resume(path: Path, model: Any, optimiser: Any, state: Any) -> None:
    """Continue from a checkpoint where there is one."""
    import torch

    if not path.exists():
        return
    saved = torch.load(path, weights_only=True)
    for part, values in zip((model, optimiser), saved["parts"], strict=True):
        part.load_state_dict(values)
    state.update(saved["state"])
    print(f"resumed at step {state['step']}", flush=True)


def zero_shot(model: Any, tokenizer: Any, pool: Pool) -> dict[str, float]:
    """Return the accuracy by words for each attribute, where it can be seen."""
    import torch

    images = image_embeddings(model, pool.pixels)
    result = {}
    for key in KEYS:
        values = list(WORDS[key])
        texts = text_embeddings(model, tokenizer, [prompt(key, v) for v in values])
        seen = [i for i, row in enumerate(pool.rows) if key in row["seen"].split()]
        truth = torch.tensor([values.index(pool.rows[i][key]) for i in seen])
        guess = (images[seen] @ texts.T).argmax(1)
        result[key] = round((guess == truth).float().mean().item(), 4)
    return result


def finish(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    pool: Pool,
    held: Pool,
    state: Mapping[str, Any],
) -> None:
    """Measure the model on held-out pictures and write its folder."""
    import torch
    import transformers

    model.eval()
    accuracy = zero_shot(model, tokenizer, held)
    model.train()
    print("zero-shot", accuracy, flush=True)
    report = {
        "command": f"python tools/train_sample_clip.py --seed {args.seed}",
        "images": len(pool.rows),
        "held_out_images": len(held.rows),
        "combinations": len(training_combinations()),
        "steps": state["step"],
        "batch": args.batch,
        "rate": args.rate,
        "seed": args.seed,
        "minutes": round(state["seconds"] / 60, 1),
        "machine": f"{platform.machine()}, {args.threads} threads"
        if not torch.cuda.is_available()
        else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "zero_shot": accuracy,
        "loss": state["curve"],
    }
    save(model, args.out, report)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--work", type=Path, default=Path("/tmp/sample-clip"))
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--held-out", type=int, default=800)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--minutes", type=float, default=60, help="stop by then")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=300, help="steps a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, train, measure, and write the model folder."""
    args = arguments(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    workers = args.threads
    pool = make_pool(args.work, "train", args.seed, args.images, workers)
    held = make_pool(args.work, "held", args.seed + 1_000_000, args.held_out, workers)
    train(args, pool, held)
    return 0


if __name__ == "__main__":
    sys.exit(main())
