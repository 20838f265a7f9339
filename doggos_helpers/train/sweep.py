"""A sweep: settings tried out with Ray Tune, the worse ones stopped early."""

import dataclasses
from typing import Any

import pandas as pd
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator

from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.cluster.plan import StagePlan
from doggos_helpers.cluster.waiting import wait_for
from doggos_helpers.data.files import open_root
from doggos_helpers.environment import environment
from doggos_helpers.errors import unwrapped
from doggos_helpers.train.loop import TrainInputs, epochs_of, moments_of
from doggos_helpers.train.shard import Shard
from doggos_helpers.train.stage import run_params
from doggos_helpers.train.tracking import experiment_name, tracked_run

SPACE = {
    "learning_rate": tune.loguniform(5e-4, 2e-2),
    "hidden_units": tune.choice([0, 64, 256]),  # 0: a linear probe
    "dropout": tune.choice([0.0, 0.1, 0.3]),
}
FIRST = 3  # epochs after which the worse trials may be stopped


def trial(config: dict[str, Any], inputs: TrainInputs, stage: StagePlan) -> None:
    """Train one network, in one process. Runs in a trial of Ray Tune.

    Args:
        config: The settings to try.
        inputs: Of the training.
        stage: What a worker gets.
    """
    torch.set_num_threads(stage.threads)
    settings = inputs.settings.model_copy(update=config)
    inputs = dataclasses.replace(inputs, settings=settings)
    *_, model = inputs.candidates().values()
    rows = [Shard(inputs.contents, s, inputs.classes) for s in ("train", "val")]
    model.standardise(*moments_of(rows[0], stage.batch_size))
    past: list[dict[str, Any]] = []
    for metrics, _ in epochs_of(model, rows, settings, stage.batch_size, past):
        past.append(metrics)
        tune.report({key: metrics[key] for key in ("epoch", "val_loss")})


def sweep(
    inputs: TrainInputs, cluster: Cluster, trials: int
) -> tuple[TrainInputs, pd.DataFrame]:
    """Try out settings, and return the inputs with those of the lowest loss.

    The trials are child runs of one MLflow run.

    Args:
        inputs: From `check`.
        cluster: Where.
        trials: How many combinations, drawn from `SPACE`.

    Returns:
        The inputs of the training that should follow, and one row an epoch of each
        trial: trial, epoch, val_loss and what was tried.
    """
    settings, stage = inputs.settings, cluster.plan.train
    wait_for(stage, cluster, settings)
    filesystem, folder = open_root(str(settings.training_dir / "sweeps"))
    work = tune.with_parameters(trial, inputs=inputs, stage=stage)
    params = run_params(inputs, cluster.plan) | {"sweep": trials}
    with tracked_run(settings, **params) as run_id, unwrapped():
        children = MLflowLoggerCallback(
            tracking_uri=settings.tracking,
            experiment_name=experiment_name(settings),
            tags={"mlflow.parentRunId": run_id},
        )
        tuner = tune.Tuner(
            tune.with_resources(work, {"cpu": stage.cpus}),
            param_space=SPACE,
            tune_config=tune.TuneConfig(
                metric="val_loss",
                mode="min",
                num_samples=trials,
                scheduler=ASHAScheduler(max_t=settings.epochs, grace_period=FIRST),
                search_alg=BasicVariantGenerator(random_state=settings.seed),
            ),
            run_config=tune.RunConfig(
                name=run_id,
                storage_path=folder,
                storage_filesystem=filesystem,
                callbacks=[children],
                verbose=0,
            ),
        )
        with environment(RAY_AIR_NEW_OUTPUT="0"):  # else `verbose` is not all
            found: Any = tuner.fit()
        filesystem.delete_dir(f"{folder}/{run_id}")  # its notes are pickles
    ended = [(i, one) for i, one in enumerate(found, start=1) if not one.error]
    tables = [one.metrics_dataframe.assign(trial=i) for i, one in ended]
    told = pd.concat(tables, ignore_index=True)
    told = told.rename(columns=lambda name: name.removeprefix("config/"))
    chosen = settings.model_copy(update=found.get_best_result(scope="all").config)
    inputs = dataclasses.replace(inputs, settings=chosen)
    return inputs, told[["trial", "epoch", "val_loss", *SPACE]]
