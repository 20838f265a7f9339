"""Serves the champion over HTTP: ``python -m doggos_helpers.serve``."""

import signal
import threading
from collections.abc import Sequence

from doggos_helpers.cluster.connect import connect, disconnect
from doggos_helpers.errors import run_command
from doggos_helpers.serve.application import ServeSettings
from doggos_helpers.serve.service import check_inputs, curl_line, start, stop


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C or SIGTERM; with --keep-app, deploy and return."""
    settings = ServeSettings.from_command("doggos_helpers.serve", list(arguments))
    check_inputs(settings)
    cluster = connect(settings)
    service = None
    try:
        service = start(settings, cluster)
        print(f"{service.url}  serves; try\n{curl_line(settings, service)}", flush=True)
        if settings.keep_app and not cluster.started_here:
            service = None
            return 0
        print("Ctrl-C stops it.", flush=True)
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        ended.wait()
    except KeyboardInterrupt:
        if not service:
            raise
        print("\nStopping.", flush=True)
    finally:
        if service:
            stop(service)
        disconnect()
    return 0


if __name__ == "__main__":
    run_command(main)
