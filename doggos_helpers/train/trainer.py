"""What a training is made of: its inputs, the loop's configuration, the trainer."""

import signal
import threading
from typing import TYPE_CHECKING, Any

from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from doggos_helpers.cluster.plan import GIB, WorkerPlan
from doggos_helpers.data.files import open_root
from doggos_helpers.environment import environment
from doggos_helpers.errors import unwrapped
from doggos_helpers.train.loop import train_loop
from doggos_helpers.train.tracking import EpochLogger

if TYPE_CHECKING:
    from doggos_helpers.train.stage import TrainInputs

SHARD_BYTES = 2 * GIB  # of vectors in a worker, where memory_per_worker isn't set
FLOAT32_BYTES = 4
FAILURES = 3  # of workers or their nodes that a training survives


def loop_config(inputs: "TrainInputs", plan: WorkerPlan) -> dict[str, Any]:
    """Collect what `train_loop` needs on a worker: plain values, and no rows."""
    settings, stage, contents = inputs.settings, plan.train, inputs.contents
    budget = stage.memory // 2 or SHARD_BYTES
    return {
        "layers": {
            "dimension": contents.dimension,
            "hidden_units": settings.hidden_units,
            "classes": len(inputs.classes),
            "dropout": settings.dropout,
        },
        "rows": {
            "contents": contents,
            "classes": inputs.classes,
            "most_rows": budget // (FLOAT32_BYTES * contents.dimension),
        },
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "batch_size": stage.batch_size,
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
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]
        train_loop_config=loop_config(inputs, plan),
        scaling_config=scaling_config(plan),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if plan.train.gpus >= 1 else "gloo"),
        run_config=train.RunConfig(  # type: ignore[call-arg]
            name=run_id,  # under the same name Ray Train goes on from its checkpoint
            storage_path=runs,
            storage_filesystem=filesystem,
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=1,
                checkpoint_score_attribute="val_loss",
                checkpoint_score_order="min",
            ),
            failure_config=train.FailureConfig(max_failures=FAILURES),
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
