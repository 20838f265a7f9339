"""The trainer: what a training is, described to Ray, and how it is run."""

import signal
import threading

from ray import train
from ray.train.torch import TorchConfig, TorchTrainer

from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import open_root
from doggos_helpers.environment import environment
from doggos_helpers.errors import unwrapped
from doggos_helpers.train.loop import TrainInputs, train_loop
from doggos_helpers.train.tracking import EpochLogger

FAILURES = 3  # of workers or their nodes that a training survives
KEPT = 2  # checkpoints: those of the lowest losses, and the last one


def scaling_config(plan: WorkerPlan) -> train.ScalingConfig:
    """Say how many workers Ray Train starts, and what each reserves."""
    stage = plan.train
    each = {"CPU": stage.cpus, "GPU": stage.gpus, "memory": stage.memory}
    return train.ScalingConfig(
        num_workers=stage.workers,
        use_gpu=stage.gpus > 0,
        resources_per_worker={name: amount for name, amount in each.items() if amount},
        placement_strategy="PACK" if stage.gpus else "SPREAD",
        accelerator_type=plan.accelerator_type or None,
    )


def build_trainer(inputs: TrainInputs, plan: WorkerPlan, run_id: str) -> TorchTrainer:
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
        train_loop_config={"inputs": inputs, "stage": plan.train},
        scaling_config=scaling_config(plan),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if plan.train.gpus >= 1 else "gloo"),
        run_config=train.RunConfig(  # type: ignore[call-arg]
            name=run_id,  # under the same name Ray Train goes on from its checkpoint
            storage_path=runs,
            storage_filesystem=filesystem,
            checkpoint_config=train.CheckpointConfig(
                num_to_keep=KEPT,
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

    Ray Train asks the workers for their reports every two seconds by default. It also
    installs a SIGINT handler that it never takes away, and that ends the process with
    status 0.

    Raises:
        DoggosError: One that a worker raised, as itself.
        TrainingFailedError: Of Ray Train, around any other error.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with unwrapped(), environment(RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1"):
            return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
