"""Measures what the sample's CLIP sees and reads; prints a table, writes JSON.

Zero-shot and search run on new renders of attribute combinations that no breed has;
classification on new pictures of the breeds, which the model was never told about::

    python benchmarks/sample.py --out benchmarks/results/sample.json
"""

import argparse
import json
import logging
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from doggos_helpers.clip.encoder import ClipEncoder, load_preprocessing
from doggos_helpers.data.images import decode
from doggos_sample import BREEDS, MODEL_DIR, write_dataset
from doggos_sample.breeds import TABLE
from doggos_sample.captions import WORDS, caption, prompt
from doggos_sample.train.data import KEYS, Pool, make_pool

SEED = 2_000_000
RENDERS, QUERIES, TOP = 2_000, 40, 10
TRAIN, TEST = 40, 40
SEARCHED = ("coat", "pattern", "ears", "fur", "legs", "tail", "scene")


@dataclass
class Line:
    """One line of the table: a figure, its 95 % interval, what it should reach."""

    question: str
    figure: float
    low: float
    high: float
    target: str = ""
    note: str = ""

    def __str__(self) -> str:
        """Return the line as it is printed."""
        interval = f"{self.low:.3f} to {self.high:.3f}"
        return (
            f"{self.question:<44} {self.figure:>6.3f}  {interval}  "
            f"{self.target:<12} {self.note}"
        ).rstrip()


def share(
    question: str, hits: Sequence[bool], target: str = "", note: str = ""
) -> Line:
    """Return a line for a share of hits, with its Wilson interval."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Line(question, p, float(middle - half), float(middle + half), target, note)


def mean(question: str, values: Sequence[float], target: str, note: str) -> Line:
    """Return a line for a mean, with its bootstrap interval."""
    rng = np.random.default_rng(0)
    every = np.asarray(values, float)
    means = rng.choice(every, (4000, len(every))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Line(question, float(every.mean()), float(low), float(high), target, note)


# ---- by words ----------------------------------------------------------------


def zero_shot(encoder: ClipEncoder, images: np.ndarray, pool: Pool) -> list[Line]:
    """Name each attribute by words, where the picture shows it."""
    lines = []
    for key in KEYS:
        values = list(WORDS[key])
        texts = encoder.encode_texts([prompt(key, value) for value in values])
        guess = (images @ texts.T).argmax(1)
        hits = [
            values[g] == row[key]
            for g, row in zip(guess, pool.rows, strict=True)
            if key in row["seen"].split()
        ]
        target = {"coat": ">= 0.95", "scene": ">= 0.95", "pose": ""}
        note = f"{len(hits)} pictures, chance {1 / len(values):.2f}"
        line = share(f"zero-shot {key}", hits, target.get(key, ">= 0.85"), note)
        lines.append(line)
    return lines


def search(encoder: ClipEncoder, images: np.ndarray, pool: Pool) -> Line:
    """Search by two or three attributes: how many of the first ten have them all."""
    rng = Random(SEED)
    texts: list[str] = []
    fits: list[list[bool]] = []
    while len(texts) < QUERIES:
        row = rng.choice(pool.rows)
        facts = {k: row[k] for k in rng.sample(SEARCHED, rng.choice((2, 3)))}
        fit = [_shows(other, facts) for other in pool.rows]
        if sum(fit) >= TOP:
            texts.append(caption(facts, rng))
            fits.append(fit)
    table = np.array(fits)
    best = np.argsort(-(encoder.encode_texts(texts) @ images.T), 1)[:, :TOP]
    found = np.take_along_axis(table, best, 1).mean(1)
    worst = sorted(zip(found, texts, strict=True))[:3]
    note = f"chance {table.mean():.3f}; hardest: " + "; ".join(t for _, t in worst)
    return mean(f"text search, fit of the first {TOP}", found, ">= 0.8", note)


def _shows(row: dict[str, str], facts: dict[str, str]) -> bool:
    seen = row["seen"].split()
    return all(key in seen and row[key] == value for key, value in facts.items())


def described(breed: str) -> str:
    """Return a sentence of the breed's likeliest attributes."""
    odds = TABLE[breed]

    def word(name: str) -> str:
        values = getattr(odds, name)
        return WORDS[name][max(values, key=values.get)][0]

    return (
        f"a photo of a {word('fur')} {word('coat')} {word('pattern')} dog with"
        f" {word('ears')} ears and {word('legs')} legs and {word('tail')} tail"
    )


def descriptions(encoder: ClipEncoder, images: np.ndarray, labels: np.ndarray) -> Line:
    """Name the breed by descriptions alone."""
    texts = encoder.encode_texts([described(breed) for breed in BREEDS])
    hits = (images @ texts.T).argmax(1) == labels
    note = f"{len(hits)} pictures, chance {1 / len(BREEDS):.3f}"
    return share("zero-shot by breed descriptions", hits, "well above", note)


def warned(encoder: ClipEncoder) -> str:
    """Return what is logged for a query with unknown words."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore
    logger = logging.getLogger("doggos_helpers.clip.encoder")
    logger.addHandler(handler)
    encoder.encode_texts(["a purple dog on a skateboard"])
    logger.removeHandler(handler)
    return messages[0] if messages else "NO WARNING"


# ---- breeds ------------------------------------------------------------------


def breed_pictures(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw new pictures of the breeds: pixels, labels, and which train.

    The planted near duplicates stay out: one half must not know the other.
    """
    import pyarrow.parquet as pq

    write_dataset(folder, TRAIN + TEST, seed=SEED)
    rows = pq.read_table(folder / "attributes.parquet").to_pylist()
    rows = [row for row in rows if row["duplicate_of"] is None]
    preprocessing = load_preprocessing(str(MODEL_DIR))
    files = [folder / row["path"] for row in rows]
    pixels = np.stack([decode(file.read_bytes(), preprocessing) for file in files])
    labels = np.array([BREEDS.index(row["breed"]) for row in rows])
    train = np.array([int(file.stem.rsplit("_", 1)[1]) < TRAIN for file in files])
    return pixels, labels, train


def probe(features: np.ndarray, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Classify test pictures by logistic regression; its strength is cross-validated.

    Returns:
        The guesses for the test pictures.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=400))
    grid = {"logisticregression__C": [0.0003, 0.003, 0.03, 0.3]}
    best = GridSearchCV(model, grid, cv=3).fit(features[train], labels[train])
    return best.predict(features[~train])


def untrained(folder: Path) -> ClipEncoder:
    """Return an image tower of the same shape with random weights."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(SEED)
    config = CLIPVisionConfig.from_pretrained(MODEL_DIR)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    shutil.copy(MODEL_DIR / "preprocessor_config.json", folder)
    return ClipEncoder(str(folder), threads=2)


def histograms(pixels: np.ndarray) -> np.ndarray:
    """Return joint colour histograms of 6 x 6 x 6 bins, as square roots of shares."""
    bins = (pixels // 43).astype(int) @ (36, 6, 1)
    counts = [np.bincount(image.ravel(), minlength=216) for image in bins]
    return np.sqrt(np.array(counts) / bins[0].size)


def small(pixels: np.ndarray) -> np.ndarray:
    """Return pictures of 16 x 16 pixels, flat."""
    from PIL import Image

    shrunk = [Image.fromarray(p).resize((16, 16), Image.Resampling.BOX) for p in pixels]
    return np.stack([np.asarray(image).ravel() / 255 for image in shrunk])


def breeds(encoder: ClipEncoder, folder: Path) -> list[Line]:
    """Classify breeds by embeddings, and by what should not suffice."""
    pixels, labels, train = breed_pictures(folder / "breeds")
    images = batched(encoder.encode_images, pixels)
    truth = labels[~train]
    guess = probe(images, labels, train)
    wrong = Counter(
        " for ".join((BREEDS[g], BREEDS[t]))
        for g, t in zip(guess, truth, strict=True)
        if g != t
    )
    confused = ", ".join(f"{names} {n}" for names, n in wrong.most_common(6))
    note = f"{len(truth)} pictures; {confused}"
    ours = share(
        "regression on embeddings, top-1", guess == truth, "0.88 to 0.98", note
    )
    lines = [descriptions(encoder, images, labels), ours]
    random_tower = untrained(folder / "untrained")
    for name, features in {
        "colour histograms": histograms(pixels),
        "pixels, 16 x 16": small(pixels),
        "a random copy's embeddings": batched(random_tower.encode_images, pixels),
    }.items():
        hits = probe(features, labels, train) == truth
        note = f"{100 * (ours.figure - np.mean(hits)):.0f} points below"
        lines.append(share(f"regression on {name}", hits, "20 points less", note))
    return lines


def batched(encode: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> Any:
    """Encode pictures by 128."""
    parts = [encode(pixels[i : i + 128]) for i in range(0, len(pixels), 128)]
    return np.concatenate(parts)


# ---- the whole ---------------------------------------------------------------


def rate(encoder: ClipEncoder, pixels: np.ndarray) -> Line:
    """Measure the images a second of the image tower: the median of seven runs."""
    rates = []
    for _ in range(7):
        started = time.perf_counter()
        batched(encoder.encode_images, pixels)
        rates.append(len(pixels) / (time.perf_counter() - started))
    low, middle, high = np.quantile(rates, (0, 0.5, 1))
    note = "2 threads; slowest and fastest of 7 runs"
    return Line("images a second, image tower", middle, low, high, ">= 250", note)


def main() -> int:
    """Draw, measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    encoder = ClipEncoder(str(MODEL_DIR), threads=2, towers=("image", "text"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = make_pool(folder, "benchmark", SEED, RENDERS, args.workers)
        pixels = pool.pixels.transpose(0, 2, 3, 1)
        images = batched(encoder.encode_images, pixels)
        lines = zero_shot(encoder, images, pool)
        lines.append(search(encoder, images, pool))
        lines += breeds(encoder, folder)
        lines.append(rate(encoder, pixels[:512]))
    print(f"{'question':<44} figure  95 % interval   target")
    print(*lines, sep="\n")
    warning = warned(encoder)
    weights = (MODEL_DIR / "model.safetensors").stat().st_size
    print(f"weights: {weights / 1e6:.1f} MB (at most 10)\nunknown words: {warning}")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "command": "python benchmarks/sample.py",
            "machine": f"{platform.machine()}, 2 threads",
            "seed": SEED,
            "weights_bytes": weights,
            "lines": [asdict(line) for line in lines],
            "warning": warning,
        }
        args.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
