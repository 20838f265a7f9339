"""Stages of a request: what embeds, what classifies, and what both are made from."""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, SecretStr
from ray import serve
from ray.serve import metrics
from upath import UPath

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.images import Preprocessing
from doggos_helpers.embed.table import read_record
from doggos_helpers.serve.answers import Breed, Model
from doggos_helpers.settings import Settings, YesNo

TOP_BREEDS = 5
NO_TOKEN = SecretStr("")


class ServeSettings(Settings):
    """Serve the champion over HTTP, until Ctrl-C."""

    champion: str = Field("", description="classifier's folder; empty: the registry's")
    promote: int | None = Field(
        None, description="version to roll out, and nothing else"
    )
    encoder_apart: YesNo | None = Field(None, description="default: where it has GPUs")
    max_replicas: int | None = Field(None, gt=0, description="as many under load")
    token: SecretStr = Field(NO_TOKEN, description="to bear; better in DOGGOS_TOKEN")
    allowed_hosts: str = Field("", description="to fetch from, with commas; empty: all")

    @property
    def champion_file(self) -> UPath:
        """Where the running service looks for which champion to serve."""
        return self.serving_dir / f"champion-{self.app_name}.json"


@dataclass(frozen=True)
class Served:
    """What replicas are made from; `dimension` is that of the embeddings.

    `champion` is the classifier's `folder` and `version` (0: not a registered one).
    """

    settings: ServeSettings
    champion: dict[str, Any]
    dimension: int
    preprocessing: Preprocessing


async def aside(threads: Executor, function: Callable[..., Any], *given: Any) -> Any:
    """Call a function in one of some threads, so that the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *given)


class Encoder:
    """Embed images and texts, in batches. The one stage that needs a GPU."""

    def __init__(self, served: Served, plan: WorkerPlan) -> None:
        """Load both towers of CLIP, once a replica."""
        from doggos_helpers.clip.encoder import ClipEncoder

        self.clip = ClipEncoder(
            served.settings.model,
            served.settings.model_revision,
            device=plan.device,
            dtype=plan.serve.dtype,
            threads=plan.serve.threads,
            towers=("image", "text"),
        )
        self.node, self.thread = this_node(), ThreadPoolExecutor(1)
        self.free = asyncio.Event()
        self.free.set()
        # Answers name the unknown words; the logs of a service need not.
        logging.getLogger("doggos_helpers.clip.encoder").setLevel(logging.ERROR)
        self.images.set_max_batch_size(plan.serve.batch_size)  # type: ignore[attr-defined]
        self.texts.set_max_batch_size(plan.serve.batch_size)  # type: ignore[attr-defined]
        # The first forward pass is slow: better now than with a user waiting. In the
        # thread of all others: torch's threads serve one of ours well, and not two.
        nothing = np.zeros((1, *served.preprocessing.crop, 3), "u1")
        self.thread.submit(self.clip.encode_images, nothing).result()

    async def image(self, pixels: np.ndarray) -> tuple[np.ndarray, str, int]:
        """Embed one image (uint8 [h, w, 3]).

        Nobody waits for others: a batch is what came while the last one was computed.

        Returns:
            The embedding, float32 [d], the node that computed it, and with how many.
        """
        await self.free.wait()  # Serve would make a batch of each image that comes
        return await self.images(pixels)

    async def text(self, text: str) -> tuple[np.ndarray, list[str], str]:
        """Embed one text; return the embedding, the unknown words and the node."""
        await self.free.wait()
        return await self.texts(text)

    @serve.batch(batch_wait_timeout_s=0)
    async def images(self, pixels: list[np.ndarray]) -> list[Any]:
        """Embed a batch: Serve collects the calls, and hands each caller its own."""
        vectors = await self.compute(self.clip.encode_images, np.stack(pixels))
        return [(vector, self.node, len(pixels)) for vector in vectors]

    @serve.batch(batch_wait_timeout_s=0)
    async def texts(self, texts: list[str]) -> list[Any]:
        """Embed a batch of texts."""
        vectors = await self.compute(self.clip.encode_texts, texts)
        unknown = [sorted(set(self.clip.unknown_words(text))) for text in texts]
        return [(v, u, self.node) for v, u in zip(vectors, unknown, strict=True)]

    async def compute(self, function: Callable[..., Any], given: Any) -> Any:
        """Run a forward pass; whoever comes meanwhile waits, and then makes a batch."""
        self.free.clear()
        try:
            return await aside(self.thread, function, given)
        finally:
            self.free.set()

    async def ping(self) -> None:
        """Answer, to say that this stage lives."""


class Classifier:
    """Name the breeds that embeddings show, as the champion of the moment does."""

    def __init__(self, served: Served) -> None:
        """Load the champion."""
        self.served, self.noted = served, ""
        self.record = read_record(served.settings)
        self.version = metrics.Gauge(
            "doggos_model_version", "Version of the champion that answers"
        )
        self.follow()

    def follow(self) -> None:
        """Load the champion that was rolled out, unless it is the one that is loaded.

        Raises:
            ModelError: It doesn't fit the embeddings; the present one stays.
        """
        from doggos_helpers.train.classifier import check_fits, load

        noted = self.served.settings.champion_file.read_text()
        if noted == self.noted:
            return
        champion, encoder = json.loads(noted), self.record["encoder"]["model"]
        folder = UPath(champion["folder"])
        labels = check_fits(folder, encoder, self.served.dimension)
        model, classes = load(folder)
        about = Model(
            version=champion["version"],
            clip=self.served.settings.model,
            classes=len(classes),
            images=self.record["counts"]["embedded"],
            epoch=labels.get("epoch"),
            val_loss=labels.get("val_loss"),
        )
        # In one step: requests are under way.
        self.noted, self.loaded = noted, (model, classes, about)
        self.version.set(champion["version"])

    def predict(self, vector: np.ndarray) -> tuple[list[Breed], Model]:
        """Return the likeliest breeds of an embedding, float32 [d], and who says so."""
        from doggos_helpers.train.classifier import predict_probabilities

        model, classes, about = self.loaded
        shares = predict_probabilities(model, vector[None])[0]
        best = np.argsort(-shares, kind="stable")[:TOP_BREEDS]
        breeds = [Breed(breed=classes[i], probability=float(shares[i])) for i in best]
        return breeds, about
