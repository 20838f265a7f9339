"""Stages of a request: what embeds, what classifies, and what both are made from."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field
from ray import serve
from upath import UPath

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.images import Preprocessing
from doggos_helpers.embed.table import read_record
from doggos_helpers.settings import Settings, YesNo

TOP_BREEDS = 5


class ServeSettings(Settings):
    """Serve the champion over HTTP, until Ctrl-C."""

    champion: str = Field("", description="classifier's folder; empty: the registry's")
    encoder_apart: YesNo | None = Field(
        None, description="in replicas of its own; default: where there are GPUs"
    )


@dataclass(frozen=True)
class Served:
    """What replicas are made from.

    `champion` is the classifier's folder: replicas never ask the registry.
    `dimension` is that of the embeddings.
    """

    settings: ServeSettings
    champion: str
    dimension: int
    preprocessing: Preprocessing


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
        self.node = this_node()
        # Answers name the unknown words; the logs of a service need not.
        logging.getLogger("doggos_helpers.clip.encoder").setLevel(logging.ERROR)
        batched: tuple[Any, ...] = (self.image, self.text)
        for method in batched:
            method.set_max_batch_size(plan.serve.batch_size)
        # The first forward pass is slow: better now than with a user waiting.
        self.clip.encode_images(np.zeros((1, *served.preprocessing.crop, 3), "u1"))

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

    async def ping(self) -> None:
        """Answer, to say that this stage lives."""


class Classifier:
    """Name the breeds that embeddings show."""

    def __init__(self, served: Served) -> None:
        """Load the champion, and check that it fits the embeddings."""
        from doggos_helpers.train.classifier import check_fits, load

        folder, record = UPath(served.champion), read_record(served.settings)
        labels = check_fits(folder, record["encoder"]["model"], served.dimension)
        self.model, self.classes = load(folder)
        self.about = {
            "clip": served.settings.model,
            "classes": len(self.classes),
            "images": record["counts"]["embedded"],
        } | {name: labels.get(name) for name in ("epoch", "val_loss")}

    def predict(self, vector: np.ndarray) -> dict[str, Any]:
        """Return the likeliest breeds of an embedding, float32 [d], and who says so."""
        from doggos_helpers.train.classifier import predict_probabilities

        shares = predict_probabilities(self.model, vector[None])[0]
        best = np.argsort(-shares, kind="stable")[:TOP_BREEDS]
        breeds = [
            {"breed": self.classes[i], "probability": float(shares[i])} for i in best
        ]
        return {"breeds": breeds, "model": self.about}
