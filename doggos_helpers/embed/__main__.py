"""Embeds a data set: ``python -m doggos_helpers.embed``."""

from collections.abc import Sequence

from doggos_helpers.cluster.connect import connected
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import table_folder
from doggos_helpers.errors import run_command
from doggos_helpers.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Embed the data set of the settings."""
    settings = Settings.from_command("doggos_helpers.embed", list(arguments))
    inputs = check(settings)
    with connected(settings) as cluster:
        run = embed(inputs, cluster)
    counts = run["counts"]
    print(
        f"{counts['embedded']} embedded + {counts['errors']} bad = {counts['manifest']}"
    )
    for reason, count in list(run["reasons"].items())[:10]:
        print(f"  {count} x {reason}")
    if copies := counts["in_several_splits"]:
        print(f"{copies} files have a copy of the same bytes in another split")
    print(f"{table_folder(settings)} ({run['seconds']} s)")
    return 0


if __name__ == "__main__":
    run_command(main)
