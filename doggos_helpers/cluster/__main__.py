"""Says what it finds of all the series needs: ``python -m doggos_helpers.cluster``."""

from doggos_helpers.errors import run_command
from doggos_helpers.settings import Settings


def main(arguments: list[str]) -> int:
    """Print what is found of all that the series needs; return 1 if anything isn't ok.

    So it says as well which Ray would be joined, its nodes and the worker plan.
    """
    from doggos_helpers.cluster.doctor import examine

    settings, wrong = Settings.from_command("doggos_helpers.cluster", arguments), 0
    for finding in examine(settings):
        print(finding, flush=True)
        wrong += bool(finding.fix)
    print(f"{wrong} not ok" if wrong else "All is well.")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_command(main)
