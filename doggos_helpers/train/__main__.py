"""Trains a classifier: ``python -m doggos_helpers.train``."""

from collections.abc import Sequence

from pydantic import Field

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import run_command
from doggos_helpers.settings import Settings
from doggos_helpers.train.registry import rollback
from doggos_helpers.train.stage import check, train
from doggos_helpers.train.tracking import open_tracking


class TrainSettings(Settings):
    """Train on the embeddings, after a sweep or at once; or go back."""

    sweep: int = Field(0, ge=0, description="trials before it, for its settings")
    rollback: bool = Field(False, description="only make the last champion one again")


def main(arguments: Sequence[str]) -> int:
    """Train on the embeddings of the settings."""
    settings = TrainSettings.from_command("doggos_helpers.train", list(arguments))
    if settings.rollback:
        print(f"version {rollback(settings).version} is champion again")
        return 0
    inputs = check(settings)
    with connected(settings) as cluster:
        if settings.sweep:
            from doggos_helpers.train.sweep import sweep

            inputs, trials = sweep(inputs, cluster, settings.sweep)
            print(trials.groupby("trial").last().to_string())
        run = train(inputs, cluster)
    from doggos_helpers import show

    curves = show.loss_curves(run["history"], len(run["classes"]))
    open_tracking(settings.tracking).log_figure(run["mlflow_run"], curves, "loss.png")
    best, counts = run["best"], run["counts"]
    images = f"{counts['train']} training and {counts['val']} validation images"
    print(f"{images}, {len(run['classes'])} classes; {run['choice']}")
    loss = f"validation loss {best['val_loss']:.3f}, accuracy"
    figures = f"{loss} {best['val_accuracy']:.3f} (chance {run['chance']:.3f})"
    print(f"{best['candidate']}, best epoch {best['epoch']}: {figures}")
    print(f"registered as version {run['version']}: {run['verdict']}")
    print(f"{settings.training_dir / 'run.json'} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
