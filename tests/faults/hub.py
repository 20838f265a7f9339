"""Hubs on loopback: without models, with one, one that never answers, one that is off.

huggingface_hub reads HF_ENDPOINT when it is imported: a command that shall meet one of
them needs a process of its own.
"""

import functools
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from doggos_sample import MODEL_DIR
from tests.faults.case import Place
from tools.local_cluster import free_ports

COMMIT = "0" * 40
SAMPLE_FILES = {file.name for file in MODEL_DIR.iterdir()}


def listed(file: Path) -> dict[str, Any]:
    """Say of a file what a hub's listing says."""
    content = file.read_bytes()
    digest = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": file.name, "size": len(content), "oid": digest}


class KnowsNothing(BaseHTTPRequestHandler):
    """Answers as the hub does about a repository that isn't there."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Keep the test's output readable."""


class HasSample(KnowsNothing):
    """Gives the sample's model out as `someone/clip`."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        folder, _, name = path.rpartition("/")
        about = "/api/models/someone/clip"
        if path in (about, f"{about}/revision/main"):
            files = [{"rfilename": file.name} for file in MODEL_DIR.iterdir()]
            told = {"id": "someone/clip", "sha": COMMIT, "siblings": files}
            self.answer(json.dumps(told).encode())
        elif path == f"{about}/tree/{COMMIT}":
            files = [listed(file) for file in MODEL_DIR.iterdir()]
            self.answer(json.dumps(files).encode())
        elif "someone/clip/" not in path:
            super().do_GET()
        elif folder.startswith("/someone/clip/resolve/") and name in SAMPLE_FILES:
            self.answer((MODEL_DIR / name).read_bytes())
        else:
            self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})

    def answer(self, content: bytes, status: int = 200, headers=None) -> None:
        self.send_response(status)
        known = {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        known["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        for header, value in (known | (headers or {})).items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


def _serve(handler: type[BaseHTTPRequestHandler]) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


@functools.cache
def hub_without_models() -> str:
    """Return the address of a hub that answers 404, for the rest of this process."""
    return _serve(KnowsNothing)


@functools.cache
def hub_with_sample() -> str:
    """Return the address of a hub with one model."""
    return _serve(HasSample)


@functools.cache
def silent_socket() -> socket.socket:
    """Return a socket that accepts, by the system's own queue, and never answers."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    return listening


def silent_hub() -> str:
    """Return the address of a hub that never answers."""
    return f"http://127.0.0.1:{silent_socket().getsockname()[1]}"


def no_hub() -> str:
    """Return an address where nothing listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def hub_model(place: Place, endpoint: str) -> None:
    """Choose a hub model that is in no cache."""
    place.environment |= {
        "DOGGOS_MODEL": "nobody/clip-vit-base-patch32",
        "HF_ENDPOINT": endpoint,
        "HF_HUB_CACHE": str(place.folder / "cache"),
    }
