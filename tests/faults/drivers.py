"""Drivers to be killed: they embed with a model that sleeps, and start quickly.

A server has imported everything, and forks a driver for each embedding: a process of
its own, with a Ray job of its own, that runs `embed` as the command does. Only the
model is made up: it sleeps for each batch, answers with the mean colour of an image,
and notes each image as it begins with it.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from doggos_helpers.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SLEEP_S = "DOGGOS_TEST_SLEEP_S"  # for each batch
START_S = 120


@dataclass(frozen=True)
class Driver:
    """A forked driver; `log` is what it says."""

    pid: int
    log: Path

    def ended(self) -> bool:
        """Whether its process is gone."""
        return not psutil.pid_exists(self.pid)

    def kill(self) -> None:
        """End it at once, from outside."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self, limit_s: float = START_S) -> int | None:
        """Wait for its end; return its exit code, or None where it was killed."""
        deadline = time.monotonic() + limit_s
        while not self.ended():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        code = self.log.with_suffix(".code")
        return int(code.read_text()) if code.exists() else None


@contextlib.contextmanager
def drivers(
    environment: Mapping[str, str], logs: Path, *program: str
) -> Iterator[Callable[[Settings], Driver]]:
    """Run a server of drivers; give the function that starts one.

    Args:
        environment: To join a cluster.
        logs: A folder for what the drivers say.
        *program: The module that serves them, and its arguments; by default this one.
    """
    logs.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-m", *(program or (__name__,))],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert server.stdin and server.stdout
    started: list[Driver] = []

    def start(settings: Settings) -> Driver:
        log = logs / f"{len(started):03}.log"
        log.touch()
        given = settings.model_dump(exclude_defaults=True) | {
            "storage": settings.storage
        }
        print(json.dumps([str(log), given]), file=server.stdin, flush=True)
        started.append(Driver(int(server.stdout.readline()), log))
        return started[-1]

    try:
        yield start
    finally:
        for driver in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(driver.pid, signal.SIGKILL)
        server.stdin.close()
        server.wait(START_S)


def begun(storage: Path) -> list[tuple[float, str]]:
    """Return when the model began with which image, in order."""
    noted = []
    for file in (storage / "begun").glob("*"):
        lines = file.read_text().split("\n")[:-1]  # the last may be half
        noted += [line.split("\t") for line in lines]
    return sorted((float(at), path) for at, path in noted)


def serve(run: Callable[[Settings], Any]) -> None:
    """Fork a driver for each line of standard input. Runs in the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    for line in sys.stdin:
        log, given = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = 1
        try:
            run(Settings(**given))
            code = 0
        except BaseException:
            logging.getLogger().exception("failed")
        Path(log).with_suffix(".code").write_text(str(code))
        sys.stdout.flush()
        os._exit(code)


def embed(settings: Settings, model: type | None = None) -> None:
    """Embed as the command does, with a model that sleeps."""
    from doggos_helpers.cluster.connect import connect, disconnect
    from doggos_helpers.data.images import Preprocessing
    from doggos_helpers.data.manifest import build_manifest
    from doggos_helpers.embed import pipeline, stage
    from doggos_helpers.embed.settle import encoder_of

    pipeline.Embedder = model or sleeping(pipeline.Embedder)  # type: ignore[misc]
    small = Preprocessing(shortest_edge=8, crop=(8, 8), resample=3)
    pipeline.load_preprocessing = lambda *model: small  # type: ignore[assignment]
    join()
    manifest = build_manifest(settings, encoder_of(settings).get("parts", 0))
    inputs = stage.EmbedInputs(settings, manifest, "sleeper")
    run = stage.embed(inputs, connect(settings))
    print(json.dumps(run["counts"]))
    disconnect()


def join() -> None:
    """Join the cluster of the environment, without what `connect` checks first."""
    import ray

    address = os.environ["RAY_ADDRESS"]
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)


def sleeping(embedder: type) -> type:
    """Make an Embedder whose model sleeps."""

    class Sleeper(embedder):  # type: ignore[misc]
        def __init__(self, settings: Settings, plan: Any) -> None:
            self.encoder, self.node = self, "somewhere"
            self.reasons, self.max_bad_share = Counter[str](), 1
            self.notes = Path(settings.storage, "begun", uuid.uuid4().hex)
            self.notes.parent.mkdir(exist_ok=True)
            self.sleep_s = float(os.environ[SLEEP_S])

        def __call__(self, batch: dict[str, np.ndarray]) -> Any:
            lines = "".join(f"{time.time()}\t{path}\n" for path in batch["path"])
            with self.notes.open("a") as file:
                file.write(lines)
            return super().__call__(batch)

        def encode_images(self, pixels: np.ndarray) -> np.ndarray:
            time.sleep(self.sleep_s)
            means = pixels.mean((1, 2), dtype=np.float32)
            return means / np.linalg.norm(means, axis=1, keepdims=True)

    return Sleeper


if __name__ == "__main__":
    import ray  # noqa: F401

    import doggos_helpers.embed.stage  # noqa: F401

    serve(embed)
