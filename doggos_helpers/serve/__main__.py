"""Serves the champion over HTTP: ``python -m doggos_helpers.serve``."""

import signal
from collections.abc import Sequence

from doggos_helpers.cluster.connect import connected
from doggos_helpers.errors import run_command
from doggos_helpers.serve.application import check_artefacts
from doggos_helpers.serve.service import check_port, start, stop
from doggos_helpers.serve.stages import ServeSettings


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM; with --keep-app, deploy and return."""
    settings = ServeSettings.from_command("doggos_helpers.serve", list(arguments))
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
