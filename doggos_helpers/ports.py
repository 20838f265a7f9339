"""Ports of this machine."""

import socket


def bind(host: str, port: int) -> tuple[int, OSError | None]:
    """Try to listen at a host and port, and let go of it.

    Returns:
        The port, one that is free where 0 was asked for, and why not, if it can't be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # Connections of a service that has just ended don't count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return probe.getsockname()[1], None
    except OSError as error:
        return port, error
