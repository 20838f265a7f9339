"""Embeds a data set: ``python -m doggos_helpers.embed``."""

from doggos_helpers.cluster.connect import connected
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import table_folder
from doggos_helpers.errors import run_command
from doggos_helpers.settings import Settings


def main(arguments: list[str]) -> None:
    """Embed the data set of the settings."""
    settings = Settings.from_command("doggos_helpers.embed", arguments)
    inputs = check(settings)
    with connected(settings) as cluster:
        run = embed(inputs, cluster)
    print("{embedded} embedded + {errors} bad = {manifest}".format(**run["counts"]))
    for reason, count in list(run["reasons"].items())[:10]:
        print(f"  {count} x {reason}")
    print(f"{table_folder(settings)} ({run['seconds']} s)")


if __name__ == "__main__":
    run_command(main)
