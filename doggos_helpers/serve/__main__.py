"""Serves the champion over HTTP: ``python -m doggos_helpers.serve``."""

import signal
from collections.abc import Sequence

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import run_command
from doggos_helpers.serve.application import check_artefacts, roll_out
from doggos_helpers.serve.service import check_port, start, stop, url_of
from doggos_helpers.serve.stages import ServeSettings
from doggos_helpers.train.registry import promote


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM; with --keep-app, deploy and return.

    With --promote, make a registered version the champion, in the running service too;
    the way back is the same command with the version before.
    """
    settings = ServeSettings.from_command("doggos_helpers.serve", list(arguments))
    if settings.promote:
        promote(settings, settings.promote)
        roll_out(check_artefacts(settings))
        print(f"Version {settings.promote} is rolled out to {url_of(settings)}.")
        return 0
    check_port(settings, or_serve=True)
    check_artefacts(settings)
    with connected(settings) as cluster:
        service = start(settings, cluster)
        keep = settings.keep_app and not cluster.started_here
        try:
            print(f"{service.url}  serves: a page, and what /openapi.json describes.")
            if not keep:
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                print("Ctrl-C stops it.", flush=True)
                signal.pause()
        except KeyboardInterrupt:
            print("\nStopping.", flush=True)
        finally:
            if not keep:
                stop(service)
    return 0


if __name__ == "__main__":
    run_command(main)
