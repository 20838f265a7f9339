"""What a training worker runs: epochs in plain PyTorch, and the loop around them."""

import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device, prepare_model
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.embed.table import EMBEDDING, Contents
from doggos_helpers.errors import ModelError
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import Classifier
from doggos_helpers.train.shard import LABEL, ROWS, Shard

STATE = "state.pt"  # a checkpoint's file, without code
SHARD_BYTES = 2 * 2**30  # of vectors in a worker, where memory_per_worker isn't set
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class TrainInputs:
    """What a training needs: what the table holds, and how that was made.

    `classes` is the label set, sorted; `embedded` the run record of the embeddings.
    """

    settings: Settings
    contents: Contents
    classes: list[str]
    embedded: dict[str, Any]

    def candidates(self) -> dict[str, Classifier]:
        """Make what is to be trained, the simplest first: a linear probe, a network."""
        units = {"linear": 0, "network": self.settings.hidden_units}
        made = {}
        for name in ("linear", "network") if units["network"] else ("linear",):
            torch.manual_seed(self.settings.seed)
            shape = (self.contents.dimension, units[name], len(self.classes))
            made[name] = Classifier(*shape, dropout=self.settings.dropout)
        return made


def run_epoch(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    optimizer: torch.optim.Optimizer | None = None,
    clip_norm: float = 0,
) -> list[float]:
    """Train on each batch once or, without an optimizer, only measure.

    Args:
        model: Gives logits [n, classes].
        batches: Of a `Shard`.
        optimizer: Of the model's parameters.
        clip_norm: How long a gradient may be; 0: as long as it comes.

    Returns:
        The sums of the loss and of the correct answers, and the number of rows.
    """
    model.train(optimizer is not None)
    device = next(model.parameters()).device
    sums, rows = torch.zeros(2, dtype=torch.float64, device=device), 0
    with torch.set_grad_enabled(optimizer is not None):
        for batch in batches:
            vectors, labels = batch[EMBEDDING], batch[LABEL]
            with torch.autocast("cuda", torch.bfloat16, enabled=vectors.is_cuda):
                logits = model(vectors)
            loss = cross_entropy(logits.float(), labels, reduction="sum")
            if optimizer:
                optimizer.zero_grad()
                (loss / batch[ROWS]).backward()
                if clip_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                optimizer.step()
            correct = (logits.argmax(dim=1) == labels).sum()
            sums += torch.stack([loss.detach(), correct])  # item() would wait for a GPU
            rows += len(labels)
    return [*sums.tolist(), rows]


def train_loop(config: dict[str, Any]) -> None:
    """Train each candidate, one after the other. Runs in each Ray Train worker.

    Each epoch leaves a checkpoint with `history`, the metrics of the epochs so far over
    all workers, `best`, the weights of each candidate's best epoch, and `kept`, what
    to go on with.

    Args:
        config: The `inputs` of the training, and the `stage` of the worker plan.

    Raises:
        ModelError: The loss is no longer a number.
    """
    inputs, stage = config["inputs"], config["stage"]
    torch.set_num_threads(stage.threads)
    context, size = ray.train.get_context(), stage.batch_size
    vector = FLOAT32_BYTES * inputs.contents.dimension
    most, device = (stage.memory // 2 or SHARD_BYTES) // vector, get_device()
    place = (context.get_world_rank(), context.get_world_size(), most, device)
    splits, classes = ("train", "val"), inputs.classes
    rows = [Shard(inputs.contents, split, classes, *place) for split in splits]
    moments, state = moments_of(rows[0], size), restored()
    history, best = state["history"], state["best"]
    for name, model in inputs.candidates().items():
        model.standardise(*moments)
        past = [metrics for metrics in history if metrics["candidate"] == name]
        kept = state["kept"] if past and past[-1] == history[-1] else ()
        for metrics, now in epochs_of(model, rows, inputs.settings, size, past, kept):
            history.append({"candidate": name, "attempt": state["attempt"]} | metrics)
            past.append(history[-1])
            if metrics["val_loss"] == min(m["val_loss"] for m in past):
                weights = model.state_dict().items()
                best[name] = {k: v.cpu().clone() for k, v in weights}
            report(history[-1], state | {"kept": now})


def epochs_of(
    model: Classifier,
    rows: Sequence[Shard],
    settings: Settings,
    size: int,
    past: list[dict[str, Any]],
    kept: Iterable[Any] = (),
) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Train a network, epoch by epoch, until `finished` says so.

    What is random follows from the seed, the epoch and the worker's rank, so that a run
    that goes on from a checkpoint ends where an undisturbed one does.

    Args:
        model: The same on each worker.
        rows: Those to learn from, and those to be measured on.
        settings: How to train.
        size: Rows of a batch.
        past: The metrics of the epochs so far; the caller adds each new one.
        kept: What was yielded last, to go on from.

    Yields:
        The metrics of an epoch, and the state of network, optimizer and schedule.
    """
    alone = not dist.is_initialized()  # as in a trial of a sweep
    # The buffers never change, and broadcasting them would take as long as a gradient.
    plain = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    replica = model if alone else prepare_model(model, parallel_strategy_kwargs=plain)
    rate, lowest = settings.learning_rate, settings.learning_rate * settings.rate_at_end
    optimizer = torch.optim.AdamW(replica.parameters(), lr=rate, fused=True)
    schedule = CosineAnnealingLR(optimizer, settings.epochs, eta_min=lowest)
    parts: Any = (model, optimizer, schedule)
    for part, state in zip(parts, kept, strict=False):
        part.load_state_dict(state)
    while not finished(past, settings):
        epoch = len(past) + 1  # each worker and epoch has a seed of its own
        seed = (settings.seed + epoch) * rows[0].world + rows[0].rank
        torch.manual_seed(seed)  # of dropout
        batches = rows[0].batches(size, seed)
        trained = run_epoch(replica, batches, optimizer, settings.clip_norm)
        schedule.step()
        measured = run_epoch(model, rows[1].batches(size))
        metrics = {"epoch": epoch} | together(trained, measured)
        yield metrics, [part.state_dict() for part in parts]


def finished(past: list[dict[str, Any]], settings: Settings) -> bool:
    """Tell whether a candidate has had its epochs, or no longer gets better."""
    losses = [metrics["val_loss"] for metrics in past]
    waited = len(losses) - 1 - losses.index(min(losses)) if losses else 0
    return len(past) >= settings.epochs or waited >= settings.patience > 0


def gathered(mine: Any) -> list[Any]:
    """Return what each worker has, by rank; all of them call it at the same time."""
    if not dist.is_initialized():
        return [mine]
    all_of_them: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    return all_of_them


def moments_of(rows: Shard, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, float64 [d], of the rows of all workers."""
    sums = np.zeros((2, rows.contents.dimension))
    for batch in rows.batches(size):
        vectors = batch[EMBEDDING].cpu().numpy().astype(np.float64)
        sums += vectors.sum(axis=0), (vectors**2).sum(axis=0)
    mean, square = sum(gathered(sums)) / rows.total
    return mean, np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6


def together(trained: list[float], measured: list[float]) -> dict[str, Any]:
    """Add up the sums of all workers, and divide."""
    nodes: Counter[str] = Counter()
    workers = gathered((this_node(), trained, measured))
    for node, (*_, seen), _ in workers:
        nodes[node] += int(seen)
    told: dict[str, Any] = {"time_ms": time.time_ns() // 10**6, "nodes": dict(nodes)}
    sums = np.sum([splits for _, *splits in workers], axis=0).tolist()
    for split, (loss, correct, rows) in zip(("train", "val"), sums, strict=True):
        told |= {f"{split}_loss": loss / rows, f"{split}_accuracy": correct / rows}
        told[f"{split}_rows"] = int(rows)
    if not math.isfinite(told["val_loss"]):
        what = "the validation loss is no longer a number"
        fix = "Set a smaller one (DOGGOS_LEARNING_RATE)"
        raise ModelError(what, "learning_rate", fix)
    return told


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read what a checkpoint holds."""
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder, STATE), map_location="cpu", weights_only=True)


def restored() -> dict[str, Any]:
    """Return the state of the checkpoint that Ray goes on from, or an empty one."""
    if checkpoint := ray.train.get_checkpoint():
        state = state_of(checkpoint)
        return state | {"attempt": state["attempt"] + 1}
    return {"history": [], "best": {}, "attempt": 1}


def report(metrics: dict[str, Any], state: dict[str, Any]) -> None:
    """Report an epoch; rank 0 adds a checkpoint, written while the next epoch runs."""
    checkpoint = None
    if ray.train.get_context().get_world_rank() == 0:
        folder = tempfile.mkdtemp()  # Ray deletes it
        torch.save(state, Path(folder, STATE))
        checkpoint = Checkpoint.from_directory(folder)
    in_background = CheckpointUploadMode.ASYNC
    ray.train.report(metrics, checkpoint, checkpoint_upload_mode=in_background)
