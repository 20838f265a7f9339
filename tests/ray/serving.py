"""A service for tests: real CLIP, random classifiers, few small images."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.serve.service import start, stop
from doggos_helpers.serve.stages import ServeSettings
from doggos_helpers.train import classifier
from tools.local_cluster import free_ports

CLASSES = {"basset": (40, 160, 80), "collie": (200, 80, 40), "pug": (60, 60, 200)}
JPEG = "test/basset/0.jpg"


@dataclasses.dataclass(frozen=True)
class App:
    settings: ServeSettings
    cluster: Cluster
    client: httpx.Client
    url: str

    def own(self, path: str = JPEG) -> str:
        """The URL at which the app hands out an image."""
        return f"{self.url}/images/{path}"

    def read(self, path: str = JPEG) -> bytes:
        return (Path(self.settings.dataset) / path).read_bytes()

    def upload(self, content: bytes | None = None, **query: Any) -> httpx.Response:
        files = {"image": ("dog.jpg", self.read() if content is None else content)}
        return self.client.post("/v1/predict/upload", files=files, params=query)


def draw(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, colour in CLASSES.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                noisy = random.normal(colour, 40, (60, 80, 3)).clip(0, 255)
                image = Image.fromarray(noisy.astype(np.uint8))
                image.save(folder / split / name / f"{i}.jpg")
    return folder


def save_classifier(folder: Path, dimension: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = classifier.Classifier(dimension, 16, len(CLASSES))
    about = {"epoch": 3, "val_loss": 1.5, "encoder": model_fingerprint("sample")}
    classifier.save(model, folder, sorted(CLASSES), **about)


def prepare(folder: Path, cluster: Cluster) -> ServeSettings:
    """Draw, embed and save a classifier, once for all apps of a test session."""
    settings = ServeSettings(
        dataset=str(draw(folder / "data")),
        storage=str(folder / "storage"),
        champion=str(folder / "champion"),
        serve_images="yes",
        app_name="tested",
    )
    embed(check(settings), cluster)
    width = read_embeddings(settings).vectors.shape[1]
    save_classifier(Path(settings.champion), width)
    return settings


@contextlib.contextmanager
def running(settings: ServeSettings, cluster: Cluster, **changes: Any) -> Iterator[App]:
    """Start an app, with changed settings, and stop it."""
    changed = settings.model_copy(update={"port": free_ports(1)[0]} | changes)
    service = start(changed, cluster)
    token = changed.token.get_secret_value()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options: Any = {"timeout": 60, "trust_env": False, "headers": headers}
    try:
        with httpx.Client(base_url=service.url, **options) as client:
            yield App(changed, cluster, client, service.url)
    finally:
        stop(service)


@contextlib.contextmanager
def traffic(app: App, every_s: float = 0.05) -> Iterator[list[int]]:
    """Send requests one after the other for the length of a block.

    Yields:
        The statuses so far; 0 where no reply came.
    """
    statuses: list[int] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(every_s):
            try:
                statuses.append(app.upload().status_code)
            except httpx.HTTPError:
                statuses.append(0)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield statuses
    finally:
        ended.set()
        sender.join()


def wait_until(happened: Any, seconds: float = 60) -> Any:
    """Wait until a function returns something that is true."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return value
