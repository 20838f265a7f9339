"""Trains a classifier: ``python -m doggos_helpers.train``."""

from collections.abc import Sequence

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import run_command
from doggos_helpers.settings import Settings
from doggos_helpers.train.stage import check, train


def main(arguments: Sequence[str]) -> int:
    """Train on the embeddings of the settings."""
    settings = Settings.from_command("doggos_helpers.train", list(arguments))
    inputs = check(settings)
    with connected(settings) as cluster:
        run = train(inputs, cluster)
    best, counts = run["best"], run["counts"]
    print(
        f"{counts['train']} training and {counts['val']} validation images,"
        f" {len(run['classes'])} classes; best of {len(run['history'])} epochs:"
        f" {best['epoch']}, validation loss {best['val_loss']:.3f}"
    )
    print(
        f"validation accuracy {best['val_accuracy']:.3f} (chance {run['chance']:.3f})"
    )
    print(f"registered as version {run['version']}: {run['verdict']}")
    print(f"{settings.training_dir / 'run.json'} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
