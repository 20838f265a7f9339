"""How long an epoch takes, beside plain PyTorch and beside what most examples show.

usage: python -m benchmarks.train [ROWS [REPEATS]]

One run on one machine, the same made-up table (50,000 embeddings of 512 numbers, 100
classes), the same network, batches of the same size, one thread a process:

(a) a plain PyTorch loop over tensors in memory: the limit;
(b) the pattern of most examples: `iter_torch_batches` over Parquet in each epoch, with
one-hot targets and averages in Python, two workers;
(c) ours, one worker; (d) ours, two workers.

Each figure is the median of the epochs after the first, in seconds; reporting is apart.
`start-up` is from `fit` to the first step, `report` what one report takes with a
checkpoint. Validation loss: that of the last epoch, on the same rows.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import train
from ray.train.torch import TorchTrainer

from benchmarks.search import DIMENSION, write_table
from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.embed.table import read_contents
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import Classifier
from doggos_helpers.train.loop import train_epoch, validate
from doggos_helpers.train.shard import Shard

RESULTS = Path(__file__).parent / "results" / "train.json"
CLASSES, HIDDEN, EPOCHS, RATE = 100, 256, 5, 1e-3


def network() -> Classifier:
    """Make the network that all ways train."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Classifier(DIMENSION, HIDDEN, CLASSES, dropout=0.2)


def plain(contents: Any, names: list[str], size: int) -> dict[str, Any]:
    """Train in this process, on tensors."""
    [whole] = Shard(contents, "train", names).batches(2**40)
    vectors, labels = whole["embedding"], whole["label"]
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    seconds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(labels))
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            loss = torch.nn.functional.cross_entropy(
                model(vectors[chosen]), labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    rows = Shard(contents, "val", names).batches(1024)
    loss_sum, _, count = validate(model, rows)
    return {"seconds": seconds, "val_loss": loss_sum / count}


def ours(config: dict[str, Any]) -> dict[str, Any]:
    """Train as `train_loop` does, and time it. Runs in each worker."""
    begun, context = time.time(), train.get_context()
    model = network()
    part = config["part"] | {"rank": context.get_world_rank()}
    part |= {"world": context.get_world_size()}
    rows = Shard(split="train", **part)
    next(rows.batches(config["size"]))
    replica = train.torch.prepare_model(model)
    optimizer = torch.optim.AdamW(replica.parameters(), lr=RATE)
    ready, seconds, reports = time.time(), [], []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        train_epoch(replica, rows.batches(config["size"], seed=epoch), optimizer)
        seconds.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            torch.save(model.state_dict(), Path(name, "model.pt"))
            checkpoint = train.Checkpoint.from_directory(name)
            train.report({"epoch": epoch}, checkpoint=checkpoint)
            reports.append(time.perf_counter() - started)
    loss_sum, _, count = validate(
        model, Shard(split="val", **config["part"]).batches(64)
    )
    told = {"seconds": seconds, "report": statistics.median(reports)}
    return told | {"begun": begun, "ready": ready, "val_loss": loss_sum / count}


def usual(config: dict[str, Any]) -> dict[str, Any]:
    """Train as most examples do. Runs in each worker."""
    begun = time.time()
    model = train.torch.prepare_model(network())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    lossf = torch.nn.CrossEntropyLoss()
    rows, seconds, ready = train.get_dataset_shard("train"), [], 0.0
    for _ in range(EPOCHS):
        started = time.perf_counter()
        model.train()
        losses = []
        for batch in rows.iter_torch_batches(
            batch_size=config["size"], local_shuffle_buffer_size=10 * config["size"]
        ):
            ready = ready or time.time()
            loss = lossf(model(batch["embedding"]), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        np.mean(losses)
        seconds.append(time.perf_counter() - started)
    loss_sum, _, count = validate(
        model, Shard(split="val", **config["part"]).batches(64)
    )
    told = {"seconds": seconds, "begun": begun, "ready": ready}
    return told | {"val_loss": loss_sum / count}


def fitted(loop: Any, config: dict[str, Any], workers: int, **more: Any) -> Any:
    """Run a loop with Ray Train; return what worker 0 returned, and the start-up."""
    with tempfile.TemporaryDirectory() as place:
        trainer = TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 0.5}
            ),
            run_config=train.RunConfig(storage_path=place),
            **more,
        )
        started = time.time()
        told = trainer.fit().return_value
    return told | {"start_up": told["ready"] - started}


def with_target(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add one-hot targets."""
    labels = np.char.replace(batch["class"].astype(str), "breed_", "").astype(int)
    return {
        "embedding": np.stack(list(batch["embedding"])),
        "target": np.eye(CLASSES, dtype=np.float32)[labels],
    }


def ways(settings: Settings, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each way once."""
    contents, names = read_contents(settings), [f"breed_{i:02}" for i in range(CLASSES)]
    names = sorted(names)
    part = {"contents": contents, "classes": names}
    yield "(a) plain PyTorch", plain(contents, names, size)
    config = {"part": part, "size": size}
    yield "(c) ours, one worker", fitted(ours, config, 1)
    config["size"] = size // 2
    yield "(d) ours, two workers", fitted(ours, config, 2)
    rows = ray.data.read_parquet(
        contents.folder, columns=["class", "split", "embedding"]
    )
    rows = rows.filter(lambda row: row["split"] == "train", num_cpus=0.25)
    rows = rows.map_batches(with_target, num_cpus=0.25)
    yield "(b) usual, two workers", fitted(usual, config, 2, datasets={"train": rows})


def main(arguments: list[str]) -> None:
    """Print a table and write the figures."""
    rows, repeats = (*map(int, arguments), *(50_000, 3)[len(arguments) :])[:2]
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, DIMENSION)) / np.sqrt(DIMENSION)
    shape = centres, np.full(DIMENSION, 0.08, np.float32), np.eye(DIMENSION)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="doggos-train-") as place:
        settings = Settings(storage=place, address="local")
        write_table(settings, rows, shape, 4096)
        connect(settings)
        for size in (64, 512):
            for _ in range(repeats):
                for way, one in ways(settings, size):
                    told.setdefault(f"{way}, batch {size}", []).append(one)
                    print(way, size, [round(s, 2) for s in one["seconds"]], flush=True)
        disconnect()
    figures = {
        way: {
            "epoch_s": statistics.median(s for one in runs for s in one["seconds"][1:]),
            "val_loss": statistics.median(one["val_loss"] for one in runs),
        }
        | {
            key: statistics.median(one[key] for one in runs)
            for key in ("start_up", "report")
            if key in runs[0]
        }
        for way, runs in told.items()
    }
    for way, found in figures.items():
        limit = figures[f"(a) plain PyTorch, {way.rpartition(', ')[2]}"]["epoch_s"]
        found["of_plain"] = found["epoch_s"] / limit
        print(f"{way:<34}" + "  ".join(f"{k} {v:.3g}" for k, v in found.items()))
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
