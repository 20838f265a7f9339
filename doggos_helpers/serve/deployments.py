"""Deployments: what the service's replicas run, and the application they make.

A request runs through three of them: `Ingress` reads, fetches and decodes, `Encoder`
embeds with CLIP, `Matcher` classifies and searches.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle
from upath import UPath

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, Preprocessing, decode
from doggos_helpers.data.listing import PATH
from doggos_helpers.embed.table import find_table, read_record
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.fetch import FetchError, fetch_image
from doggos_helpers.settings import Settings

TOP_BREEDS = 5
HEALTH_TIMEOUT_S = 5
ONGOING_REQUESTS = 64  # of an ingress: most of them wait for somebody's web server
QUEUED_REQUESTS = 256  # more than that are answered 503 at once
IMAGES = "/images/"


class Encoder:
    """Embed images and texts, in batches. The one deployment that needs a GPU."""

    def __init__(self, settings: Settings, plan: WorkerPlan) -> None:
        """Load both towers of CLIP, once a replica."""
        from doggos_helpers.clip.encoder import ClipEncoder

        self.clip = ClipEncoder(
            settings.model,
            settings.model_revision,
            device=plan.device,
            dtype=plan.serve.dtype,
            threads=plan.serve.threads,
            towers=("image", "text"),
        )
        self.node = this_node()
        # Answers name the unknown words; the logs of a service need not.
        logging.getLogger("doggos_helpers.clip.encoder").setLevel(logging.ERROR)
        batched: tuple[Any, ...] = (self.image, self.text)
        for method in batched:
            method.set_max_batch_size(plan.serve.batch_size)
        # The first forward pass is slow: better now than with a user waiting.
        self.clip.encode_images(np.zeros((1, *self.clip.preprocessing.crop, 3), "u1"))

    @serve.batch
    async def image(self, pixels: list[np.ndarray]) -> list[tuple[np.ndarray, str]]:
        """Embed one image (uint8 [h, w, 3]); Serve collects the calls to a batch.

        Returns:
            The embedding, float32 [d], and the node that computed it.
        """
        # In a thread, so that the next batch collects meanwhile.
        vectors = await asyncio.to_thread(self.clip.encode_images, np.stack(pixels))
        return [(vector, self.node) for vector in vectors]

    @serve.batch
    async def text(self, texts: list[str]) -> list[tuple[np.ndarray, list[str], str]]:
        """Embed one text; return the embedding, the unknown words and the node."""
        vectors = await asyncio.to_thread(self.clip.encode_texts, texts)
        unknown = [sorted(set(self.clip.unknown_words(text))) for text in texts]
        return [(v, u, self.node) for v, u in zip(vectors, unknown, strict=True)]

    def ping(self) -> None:
        """Answer, to say that this replica lives."""


class Matcher:
    """Match embeddings with breeds and with similar images. Needs little CPU.

    Args:
        settings: For the embeddings.
        champion: The classifier's folder; replicas never ask the registry.
    """

    def __init__(self, settings: Settings, champion: str) -> None:
        """Load the classifier and the embeddings, and check that they fit."""
        from doggos_helpers.train.classifier import check_fits, load

        self.index, folder = open_index(settings, update=False), UPath(champion)
        encoder = read_record(settings)["encoder"]["model"]
        about = check_fits(folder, encoder, self.index.dimension)
        self.classifier, self.classes = load(folder)
        self.about = {
            "clip": settings.model,
            "classes": len(self.classes),
            "images": len(self.index),
            "epoch": about.get("epoch"),
            "val_loss": about.get("val_loss"),
        }

    def predict(self, vector: np.ndarray, k: int) -> dict[str, Any]:
        """Return the likeliest breeds of an embedding (float32 [d]) and k images."""
        from doggos_helpers.train.classifier import predict_probabilities

        shares = predict_probabilities(self.classifier, vector[None])[0]
        best = np.argsort(-shares, kind="stable")[:TOP_BREEDS]
        return {
            "breeds": [
                {"breed": self.classes[i], "probability": float(shares[i])}
                for i in best
            ],
            "similar": self.search(vector, k),
            "model": self.about,
        }

    def search(
        self, vector: np.ndarray, k: int, breeds: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the k images most similar to an embedding, best first."""
        return [
            {"path": m.path, "breed": m.class_name, "split": m.split, "score": m.score}
            for m in self.index.top_k(vector, k, breeds)
        ]

    def ping(self) -> dict[str, Any]:
        """Say what is loaded."""
        return self.about


class Ingress:
    """Take HTTP requests, get their images, and ask the other two deployments."""

    def __init__(
        self,
        settings: Settings,
        preprocessing: Preprocessing,
        encoder: DeploymentHandle,
        matcher: DeploymentHandle,
    ) -> None:
        """Keep the handles: what one deployment calls another through."""
        self.settings, self.preprocessing = settings, preprocessing
        self.encoder, self.matcher = encoder, matcher
        self.paths: frozenset[str] = frozenset()
        if settings.serves_images:
            import pyarrow.parquet as pq

            table = pq.read_table(find_table(settings), columns=[PATH])
            self.paths = frozenset(table[PATH].to_pylist())

    def __serve_build_asgi_app__(self) -> Any:
        """Build the HTTP interface. Serve calls it on each replica."""
        from doggos_helpers.serve.api import build_api

        return build_api(self)

    async def classify(self, data: bytes, k: int | None) -> dict[str, Any]:
        """Classify an image file's bytes, and find k similar images."""
        # Decoding in the event loop would keep all other requests waiting.
        pixels = await asyncio.to_thread(decode, data, self.preprocessing)
        vector, node = await self.encoder.image.remote(pixels)
        k = k or self.settings.k
        return await self.matcher.predict.remote(vector, k) | {"node": node}

    async def search(
        self, text: str, k: int | None, breeds: Sequence[str]
    ) -> dict[str, Any]:
        """Find the k images that fit a text best, of these breeds or of all."""
        vector, unknown, node = await self.encoder.text.remote(text)
        k = k or self.settings.k
        similar = await self.matcher.search.remote(vector, k, breeds)
        return {"similar": similar, "unknown_words": unknown, "node": node}

    async def fetch(self, url: str, host: str) -> bytes:
        """Get the image behind a URL; `host` is what the request calls this service.

        An image of our own is read from its file: over HTTP this replica would wait
        for a replica of this app, perhaps for itself.
        """
        parts = urlsplit(url)
        own = parts.netloc == host and parts.path.startswith(IMAGES)
        if own and self.settings.serves_images:
            return await self.read(unquote(parts.path.removeprefix(IMAGES)))
        private = self.settings.allow_private_urls
        return await fetch_image(url, allow_private=private)

    async def read(self, path: str) -> bytes:
        """Read an image of the data set; a path that isn't in its table is refused."""
        if path not in self.paths:
            fix = "Use a path that a search returned, with serve_images on"
            raise FetchError("no such image here", path, fix, 404)
        try:
            root = self.settings.dataset_root
            return await asyncio.to_thread(read_bytes, root, path)
        except BadImage as error:
            fix = "Run notebook 03_embedding again: the data set changed"
            raise FetchError(str(error), path, fix, 404) from error

    async def health(self) -> dict[str, Any]:
        """Ask the other deployments whether they live."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self.encoder.ping.remote()
                return {"status": "ok", "model": await self.matcher.ping.remote()}
        except Exception as error:
            what = f"a stage does not answer ({type(error).__name__})"
            raise FetchError(what, "", "Look at the Ray dashboard", 503) from error
