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
    counts, chance, (low, high) = run["counts"], run["chance"], run["interval"]
    print(f"version {run['version']}: {counts['correct']} of {counts['test']} correct")
    top = f"top-1 accuracy {run['top1']:.3f} ({low:.3f} to {high:.3f})"
    print(f"{top}, top-5 {run['top5']:.3f}, macro F1 {run['macro']['f1']:.3f}")
    most = f"always the most frequent class {chance['majority']:.3f}"
    print(f"beside it: chance {chance['uniform']:.3f}, {most}")
    for name, rival in run["rivals"].items():
        luck = f"different by chance with p {rival['p']:.2g}"
        print(f"{name} {rival['top1']:.3f}, {luck}")
    if copies := counts["copies"]:
        what = "images have a copy in another split, which flatters the evaluation"
        print(f"{copies} {what}")
    print(f"{settings.evaluation_dir} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
