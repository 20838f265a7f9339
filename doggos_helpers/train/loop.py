"""What a training worker runs: epochs in plain PyTorch, and the loop around them."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import ray.train.torch
import torch
from torch import nn
from upath import UPath

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.embed.table import EMBEDDING
from doggos_helpers.errors import ModelError
from doggos_helpers.train.classifier import Classifier, load, save
from doggos_helpers.train.shard import LABEL, ROWS, Shard

RESUME = "resume.pt"  # of the optimizer and the epochs so far; no code
Batches = Iterable[dict[str, Any]]


def train_epoch(
    model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer
) -> list[float]:
    """Train on each batch once.

    Args:
        model: Gives logits [n, classes].
        batches: Of a `Shard`.
        optimizer: Of the model's parameters.

    Returns:
        The sums of the loss and of the correct answers, and the number of rows.
    """
    model.train()
    sums = [0.0, 0.0, 0.0]
    for batch in batches:
        logits = model(batch[EMBEDDING])
        loss = nn.functional.cross_entropy(logits, batch[LABEL], reduction="sum")
        optimizer.zero_grad()
        (loss / batch[ROWS]).backward()
        optimizer.step()
        _add(sums, loss, logits, batch[LABEL])
    return sums


def validate(model: nn.Module, batches: Batches) -> list[float]:
    """Measure the model on each batch; same arguments and sums as `train_epoch`."""
    model.eval()
    sums = [0.0, 0.0, 0.0]
    with torch.no_grad():
        for batch in batches:
            logits = model(batch[EMBEDDING])
            loss = nn.functional.cross_entropy(logits, batch[LABEL], reduction="sum")
            _add(sums, loss, logits, batch[LABEL])
    return sums


def _add(
    sums: list[float], loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
) -> None:
    sums[0] += loss.item()
    sums[1] += (logits.argmax(dim=1) == labels).sum().item()
    sums[2] += len(labels)


def train_loop(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Train one of the replicas of the model. Runs in each Ray Train worker.

    Args:
        config: As `loop_config` makes it.

    Returns:
        The metrics of each epoch, over all workers.

    Raises:
        ModelError: The loss is no longer a number.
    """
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])
    model = Classifier(**config["layers"])
    part = {**config["rows"], "rank": rank, "world": world, "device": device}
    train_rows, val_rows = (Shard(split=s, **part) for s in ("train", "val"))
    state = _resume(model)
    history: list[dict[str, Any]] = state["history"]
    if not history:
        model.standardise(*_moments(train_rows, config["batch_size"]))
    replica = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.AdamW(replica.parameters(), lr=config["learning_rate"])
    if history:
        optimizer.load_state_dict(state["optimizer"])

    size = config["batch_size"]
    for epoch in range(len(history) + 1, config["epochs"] + 1):
        seed = (config["seed"] + epoch) * world + rank  # each worker its own
        torch.manual_seed(seed)  # of dropout
        trained = train_epoch(replica, train_rows.batches(size, seed), optimizer)
        measured = validate(model, val_rows.batches(size))
        history.append({"epoch": epoch} | _over_all_workers(trained, measured))
        _report(model, optimizer, history, config)
    return history


def _moments(rows: Shard, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, float64 [d], of the rows of all workers."""
    import torch.distributed as dist

    sums = torch.zeros(2, rows.contents.dimension, dtype=torch.float64)
    sums = sums.to(rows.device)
    for batch in rows.batches(size):
        vectors = batch[EMBEDDING].double()
        sums += torch.stack([vectors.sum(dim=0), vectors.square().sum(dim=0)])
    dist.all_reduce(sums)
    mean, square = (sums / rows.total).cpu().numpy()
    return mean, np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6


def _over_all_workers(trained: list[float], measured: list[float]) -> dict[str, Any]:
    """Add up the sums of all workers (an all-reduce), and divide."""
    import torch.distributed as dist

    sums = torch.tensor([*trained, *measured], dtype=torch.float64)
    sums = sums.to(ray.train.torch.get_device())
    dist.all_reduce(sums)
    loss, correct, rows, val_loss, val_correct, val_rows = sums.tolist()
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (this_node(), int(trained[2])))
    nodes = {node: sum(n for name, n in parts if name == node) for node, _ in parts}
    if not math.isfinite(val_loss):
        raise ModelError(
            "the validation loss is no longer a number",
            "learning_rate",
            "Set a smaller one (DOGGOS_LEARNING_RATE)",
        )
    return {
        "train_loss": loss / rows,
        "train_accuracy": correct / rows,
        "val_loss": val_loss / val_rows,
        "val_accuracy": val_correct / val_rows,
        "train_rows": int(rows),
        "val_rows": int(val_rows),
        "nodes": nodes,
    }


def _report(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    config: dict[str, Any],
) -> None:
    """Report the last epoch; rank 0 adds a checkpoint, from which Ray can resume."""
    last = history[-1]
    with tempfile.TemporaryDirectory() as name:
        checkpoint = None
        if ray.train.get_context().get_world_rank() == 0:
            folder = UPath(name)
            about = config["about"] | {k: last[k] for k in ("epoch", "val_loss")}
            save(model, folder, config["rows"]["classes"], **about)
            state = {"optimizer": optimizer.state_dict(), "history": history}
            torch.save(state, Path(name, RESUME))
            checkpoint = ray.train.Checkpoint.from_directory(name)
        ray.train.report(last, checkpoint=checkpoint)


def _resume(model: Classifier) -> dict[str, Any]:
    """Take the weights of the checkpoint that Ray resumes from; return its state."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return {"history": []}
    with checkpoint.as_directory() as folder:
        model.load_state_dict(load(UPath(folder))[0].state_dict())
        return torch.load(Path(folder, RESUME), weights_only=True)
