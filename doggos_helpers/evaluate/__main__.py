"""Evaluates the champion: ``python -m doggos_helpers.evaluate``."""

from collections.abc import Sequence

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import run_command
from doggos_helpers.evaluate.stage import check, evaluate
from doggos_helpers.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Evaluate the champion of the settings on the test split."""
    settings = Settings.from_command("doggos_helpers.evaluate", list(arguments))
    inputs = check(settings)
    with connected(settings) as cluster:
        run = evaluate(inputs, cluster)
    chance, counts = run["chance"], run["counts"]
    print(f"version {run['version']}: {counts['correct']} of {counts['test']} correct")
    print(
        f"top-1 accuracy {run['top1']:.3f} (chance {chance['uniform']:.3f}, always the"
        f" most frequent class {chance['majority']:.3f}), top-5 {run['top5']:.3f},"
        f" macro F1 {run['macro']['f1']:.3f}"
    )
    print(f"{settings.evaluation_dir} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
