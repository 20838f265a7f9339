"""How long an epoch takes, beside plain PyTorch and beside what most examples show.

usage: python -m benchmarks.train [ROWS [REPEATS]]

One run on one machine, the same made-up table (50,000 embeddings of 512 numbers, 100
classes), the same network, batches of the same size, one thread a process:

(a) a plain PyTorch loop over tensors in memory: the limit;
(b) the pattern of most examples: `iter_torch_batches` over Parquet in each epoch, with
one-hot targets and averages in Python, two workers;
(c) ours, one worker; (d) ours, two workers; with a report and a checkpoint an epoch.

Each figure is the median of the epochs after the first, in seconds. `to_loss` is how
long all epochs took until the validation loss was at most the highest of the losses
that the ways ended with. `report` is what one report takes of the loop's time. Where a
fit spends its time beside: `to_worker`, from `fit` to the first line of the loop,
`to_step`, from there to the first step, `to_end`, from the last line of the loop to the
end of `fit`. `nothing` is a fit of two workers that do nothing.
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
from doggos_helpers.train.loop import report, run_epoch
from doggos_helpers.train.shard import Shard
from doggos_helpers.train.trainer import fit

RESULTS = Path(__file__).parent / "results" / "train.json"
CLASSES, HIDDEN, EPOCHS, RATE = 100, 256, 6, 1e-3
QUIET = {"broadcast_buffers": False, "gradient_as_bucket_view": True}  # as ours do


def network() -> Classifier:
    """Make the network that all ways train."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Classifier(DIMENSION, HIDDEN, CLASSES, dropout=0.1)


def optimizer_of(model: torch.nn.Module, fused: bool = True) -> torch.optim.Optimizer:
    """Make the optimizer; the fused one is the fastest of those there are."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, fused=fused)


def val_loss(model: torch.nn.Module, part: dict[str, Any]) -> float:
    """Measure a network on all rows of val."""
    loss, *_, rows = run_epoch(model, Shard(split="val", **part).batches(1024))
    return loss / rows


def plain(part: dict[str, Any], size: int) -> dict[str, Any]:
    """Train in this process, on tensors."""
    [whole] = Shard(split="train", **part).batches(2**40)
    vectors, labels = whole["embedding"], whole["label"]
    model = network()
    optimizer, told = optimizer_of(model), {"seconds": [], "losses": []}
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
        told["seconds"].append(time.perf_counter() - started)
        told["losses"].append(val_loss(model, part))
    return told


def ours(config: dict[str, Any]) -> dict[str, Any]:
    """Train as `train_loop` does, and time it. Runs in each worker."""
    begun, context = time.time(), train.get_context()
    model = network()
    where = {"rank": context.get_world_rank(), "world": context.get_world_size()}
    rows = Shard(split="train", **config["part"], **where)
    next(rows.batches(config["size"]))
    replica = train.torch.prepare_model(model, parallel_strategy_kwargs=QUIET)
    optimizer, told = optimizer_of(replica), {"seconds": [], "losses": []}
    ready, reports = time.time(), []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        run_epoch(replica, rows.batches(config["size"], seed=epoch), optimizer)
        told["seconds"].append(time.perf_counter() - started)
        told["losses"].append(val_loss(model, config["part"]))
        started = time.perf_counter()
        report({"val_loss": told["losses"][-1]}, {"kept": [model.state_dict()]})
        reports.append(time.perf_counter() - started)
    told |= {"report": statistics.median(reports[1:]), "ended": time.time()}
    return told | {"begun": begun, "ready": ready}


def usual(config: dict[str, Any]) -> dict[str, Any]:
    """Train as most examples do. Runs in each worker."""
    begun = time.time()
    model = network()
    replica = train.torch.prepare_model(model)
    optimizer = optimizer_of(replica, fused=False)
    lossf = torch.nn.CrossEntropyLoss()
    rows, ready = train.get_dataset_shard("train"), 0.0
    told: dict[str, Any] = {"seconds": [], "losses": []}
    for _ in range(EPOCHS):
        started = time.perf_counter()
        replica.train()
        losses = []
        for batch in rows.iter_torch_batches(
            batch_size=config["size"], local_shuffle_buffer_size=10 * config["size"]
        ):
            ready = ready or time.time()
            loss = lossf(replica(batch["embedding"]), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        np.mean(losses)
        told["seconds"].append(time.perf_counter() - started)
        told["losses"].append(val_loss(model, config["part"]))
    return told | {"begun": begun, "ready": ready, "ended": time.time()}


def nothing(config: dict[str, Any]) -> dict[str, Any]:
    """Do nothing. Runs in each worker."""
    now = time.time()
    return {"begun": now, "ready": now, "ended": now, "seconds": [], "losses": []}


def fitted(loop: Any, config: dict[str, Any], workers: int, **more: Any) -> Any:
    """Run a loop with Ray Train; return what worker 0 returned, and what `fit` took."""
    with tempfile.TemporaryDirectory() as place:
        trainer = TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": 0.5}
            ),
            run_config=train.RunConfig(
                storage_path=place,
                checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            ),
            **more,
        )
        started = time.time()
        told, ended = fit(trainer).return_value, time.time()
    times = {"to_worker": told["begun"] - started, "to_end": ended - told["ended"]}
    return told | times | {"to_step": told["ready"] - told["begun"]}


def with_target(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add one-hot targets."""
    labels = np.char.replace(batch["class"].astype(str), "breed_", "").astype(int)
    return {
        "embedding": np.stack(list(batch["embedding"])).astype(np.float32),
        "target": np.eye(CLASSES, dtype=np.float32)[labels],
    }


def ways(settings: Settings, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each way once."""
    contents = read_contents(settings)
    part = {"contents": contents, "classes": sorted({c for _, c in contents.labels})}
    yield "(a) plain PyTorch", plain(part, size)
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


def figures_of(runs: list[dict[str, Any]], goal: float) -> dict[str, float]:
    """Take medians of what one way told in several runs."""
    told = {"epoch_s": statistics.median(s for r in runs for s in r["seconds"][1:])}
    for run in runs:
        pairs = zip(run["losses"], np.cumsum(run["seconds"]), strict=True)
        run["to_loss"] = next(seconds for loss, seconds in pairs if loss <= goal)
        run["val_loss"] = run["losses"][-1]
    for key in ("val_loss", "to_loss", "report", "to_worker", "to_step", "to_end"):
        if key in runs[0]:
            told[key] = statistics.median(run[key] for run in runs)
    return told


def main(arguments: list[str]) -> None:
    """Print a table and write the figures."""
    rows, repeats = (*map(int, arguments), *(50_000, 5)[len(arguments) :])[:2]
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, DIMENSION)) / np.sqrt(DIMENSION)
    shape = centres, np.full(DIMENSION, 0.08, np.float32), np.eye(DIMENSION)
    told: dict[int, dict[str, list[dict[str, Any]]]] = {64: {}, 512: {}}
    with tempfile.TemporaryDirectory(prefix="doggos-train-") as place:
        settings = Settings(storage=place, address="local")
        write_table(settings, rows, shape, 4096)
        connect(settings)
        empty = [fitted(nothing, {}, 2) for _ in range(repeats)]
        for size, found in told.items():
            for _ in range(repeats):
                for way, one in ways(settings, size):
                    found.setdefault(way, []).append(one)
                    print(way, size, [round(s, 2) for s in one["seconds"]], flush=True)
        disconnect()
    seconds = [one["to_worker"] + one["to_end"] for one in empty]
    figures: dict[str, Any] = {"nothing": statistics.median(seconds)}
    print(f"{'a fit of nothing':<34}{figures['nothing']:.3g} s")
    for size, found in told.items():
        goal = max(run["losses"][-1] for runs in found.values() for run in runs)
        for way, runs in found.items():
            name = f"{way}, batch {size}"
            figures[name] = figures_of(runs, goal)
            limit = figures[f"(a) plain PyTorch, batch {size}"]["epoch_s"]
            figures[name]["of_plain"] = figures[name]["epoch_s"] / limit
            print(
                f"{name:<34}"
                + "  ".join(f"{k} {v:.3g}" for k, v in figures[name].items())
            )
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
