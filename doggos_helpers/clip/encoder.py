"""The encoder: the one home of CLIP's forward passes, for batch, search and serving."""

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.clip.files import model_source
from doggos_helpers.clip.model import (
    load_processor,
    load_tokenizer,
    load_tower,
    preprocessing_of,
)
from doggos_helpers.data.images import Preprocessing


def load_preprocessing(model: str, revision: str = "") -> Preprocessing:
    """Read how the model's own processor resizes and crops.

    Raises:
        ModelError: The model has no processor, or it can't be loaded.
    """
    return preprocessing_of(load_processor(model, revision))


class ClipEncoder:
    """The image and text towers of a CLIP model, with unit-length output.

    Runs where it is constructed; load only the towers that are needed.

    Args:
        model: `sample`, a folder or a hub id.
        revision: Commit or tag of a hub model; empty: the newest.
        device: "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".
        threads: CPU threads for torch; 0 leaves torch's choice.
        towers: "image", "text" or both.

    Raises:
        ModelError: The model can't be loaded.
    """

    def __init__(
        self,
        model: str,
        revision: str = "",
        device: str = "cpu",
        dtype: str = "float32",
        threads: int = 1,
        towers: Sequence[str] = ("image",),
    ) -> None:
        """Load the towers."""
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.model, self.device = model, device
        self.dtype = getattr(torch, dtype)
        self._image: Any = None
        self._text: Any = None
        if "image" in towers:
            self._image = load_tower(model, revision, "image", dtype).to(device)
            processor = load_processor(model, revision)
            self.preprocessing = preprocessing_of(processor)
            scale = torch.tensor([processor.image_mean, processor.image_std]) * 255
            self._mean, self._std = scale.view(2, 1, 3, 1, 1).to(device)
        if "text" in towers:
            self._text = load_tower(model, revision, "text", dtype).to(device)
            self._tokenizer = load_tokenizer(model, revision)
        self.dimension = int((self._image or self._text).config.projection_dim)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed preprocessed images.

        Args:
            pixels: uint8 [n, height, width, 3], from `images.decode`.

        Returns:
            float32 [n, dimension], each row of length one.
        """
        import torch

        if self._image is None:
            raise ValueError("this encoder was loaded without its image tower")
        with torch.inference_mode():
            # torch warns of read-only arrays, and Ray's batches are read-only.
            batch = torch.from_numpy(np.array(pixels)).to(self.device)
            batch = batch.permute(0, 3, 1, 2).float()
            batch = ((batch - self._mean) / self._std).to(self.dtype)
            return _unit(self._image(pixel_values=batch).image_embeds)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; words that the model doesn't know are warned of.

        Returns:
            float32 [n, dimension], each row of length one.
        """
        import torch

        if self._text is None:
            raise ValueError("this encoder was loaded without its text tower")
        if unknown := sorted({w for text in texts for w in self.unknown_words(text)}):
            known = known_words(self.model)
            logging.getLogger(__name__).warning(
                "The model has never seen the words: %s. It knows %d others: %s",
                ", ".join(unknown),
                len(known),
                ", ".join(known),
            )
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._text.config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        with torch.inference_mode():
            return _unit(self._text(**tokens).text_embeds)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the model was never trained on.

        A model whose folder has no words.json, such as the real CLIP, knows all.
        """
        known = set(known_words(self.model))
        words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
        return [w for w in words if w not in known] if known else []


@functools.lru_cache(maxsize=4)
def known_words(model: str) -> tuple[str, ...]:
    """Read the words a model knows from its words.json; empty where it has none."""
    file = Path(model_source(model)) / "words.json"
    return tuple(json.loads(file.read_text())) if file.is_file() else ()


def _unit(vectors: Any) -> np.ndarray:
    vectors = vectors.float()
    return (vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy()
