"""The rendered pages: `python -m tools.docs build`, or `serve` to look at them."""

import argparse
import functools
import http.server
import sys

from tools.docs.site import SITE, Failed, build

PORT = 8080


def serve(port: int) -> None:
    """Serve the site on this machine until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{port}/  Ctrl-C stops it.", flush=True)
        server.serve_forever()


def main() -> int:
    """Build or serve; return 1 with a sentence where the pages can't be built."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("what", choices=["build", "serve"])
    parser.add_argument("--port", type=int, default=PORT)
    chosen = parser.parse_args()
    try:
        if chosen.what == "build" or not SITE.is_dir():
            print(f"The pages: {build() / 'index.html'}")
        if chosen.what == "serve":
            serve(chosen.port)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
