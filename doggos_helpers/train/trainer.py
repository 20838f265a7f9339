"""What a training is made of: its inputs, the loop's configuration, the trainer."""

import math
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
from ray import train
from ray.data import Dataset
from ray.train.torch import TorchConfig, TorchTrainer

from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import open_root
from doggos_helpers.embed.table import EMBEDDING, Embeddings
from doggos_helpers.environment import environment
from doggos_helpers.errors import unwrapped
from doggos_helpers.train.loop import LABEL, train_loop
from doggos_helpers.train.tracking import EpochLogger

if TYPE_CHECKING:
    from doggos_helpers.train.stage import TrainInputs


def make_datasets(inputs: "TrainInputs", workers: int) -> dict[str, Dataset]:
    """Make the Ray Datasets `train` and `val`, of `embedding` and `label`.

    The training rows come in path order and are shuffled with the seed, so that the
    same seed gives the same shards. Ray deals every worker equally many rows and
    drops what is left over; up to `workers - 1` rows are repeated instead.
    """
    rows = inputs.embeddings
    training, val = (rows.select(rows.splits == s) for s in ("train", "val"))
    order = np.random.default_rng(inputs.settings.seed).permutation(len(training))
    even = np.resize(order, math.ceil(len(order) / workers) * workers)
    shards = [training.select(part) for part in np.array_split(even, workers)]
    return {
        "train": ray.data.from_arrow([_table(s, inputs.classes) for s in shards]),
        "val": ray.data.from_arrow(_table(val, inputs.classes)),
    }


def _table(rows: Embeddings, classes: list[str]) -> pa.Table:
    labels = pa.array(np.searchsorted(classes, rows.classes), pa.int64())
    return pa.table({EMBEDDING: rows.to_arrow(), LABEL: labels})


def loop_config(inputs: "TrainInputs", plan: WorkerPlan) -> dict[str, Any]:
    """Collect what `train_loop` needs on a worker: plain values, no objects."""
    settings, stage = inputs.settings, plan.train
    vectors = inputs.embeddings.vectors[inputs.embeddings.splits == "train"]
    return {
        "layers": {
            "dimension": vectors.shape[1],
            "hidden_units": settings.hidden_units,
            "classes": len(inputs.classes),
            "dropout": settings.dropout,
        },
        "mean": vectors.mean(axis=0),
        "deviation": vectors.std(axis=0) + 1e-6,
        "classes": inputs.classes,
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "batch_size": stage.batch_size,
        "shuffle_rows": math.ceil(len(vectors) / stage.workers),
        "threads": stage.threads,
        "seed": settings.seed,
        "about": {
            "pair": settings.pair,
            "fingerprint": inputs.embedded["fingerprint"],
            "encoder": inputs.embedded["encoder"]["model"],
        },
    }


def scaling_config(plan: WorkerPlan) -> train.ScalingConfig:
    """Say how many workers Ray Train starts, and what each reserves."""
    stage, on_gpu = plan.train, plan.train.gpus > 0
    resources: dict[str, float] = {"CPU": stage.cpus}
    if on_gpu:
        resources["GPU"] = stage.gpus
    if stage.memory:
        resources["memory"] = stage.memory
    return train.ScalingConfig(
        num_workers=stage.workers,
        use_gpu=on_gpu,
        resources_per_worker=resources,
        placement_strategy="PACK" if on_gpu else "SPREAD",
        accelerator_type=plan.accelerator_type or None,
    )


def build_trainer(inputs: "TrainInputs", plan: WorkerPlan, run_id: str) -> TorchTrainer:
    """Describe the training to Ray; nothing runs until `fit`.

    Args:
        inputs: From `check`.
        plan: Workers and what each of them gets.
        run_id: The MLflow run to log each epoch to.
    """
    settings = inputs.settings
    # Type checkers see Ray Train V1's signatures under these names.
    filesystem, runs = open_root(str(settings.training_dir / "runs"))
    datasets: Any = make_datasets(inputs, plan.train.workers)
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config=loop_config(inputs, plan),
        scaling_config=scaling_config(plan),
        datasets=datasets,
        # An equal split drops the rows left over: only `train` is split.
        dataset_config=train.DataConfig(["train"], enable_shard_locality=False),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if plan.train.gpus >= 1 else "gloo"),
        run_config=train.RunConfig(  # type: ignore[call-arg]
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=runs,
            storage_filesystem=filesystem,
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute="val_loss",
                checkpoint_score_order="min",
            ),
            failure_config=train.FailureConfig(max_failures=1),
            logging_config=train.LoggingConfig(log_level="ERROR"),
            callbacks=[EpochLogger(settings.tracking, run_id)],  # type: ignore[list-item]
        ),
    )


def fit(trainer: TorchTrainer) -> train.Result:
    """Run `trainer.fit()` without its waits, and leave Ctrl-C as it was.

    An epoch's report waits until Ray Train asks the workers for it, every two seconds
    by default. It also installs a SIGINT handler that it never takes away, and that
    ends the process with status 0.

    Raises:
        DoggosError: One that a worker raised, as itself.
        TrainingFailedError: Of Ray Train, around any other error.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with unwrapped(), environment(RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2"):
            return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
