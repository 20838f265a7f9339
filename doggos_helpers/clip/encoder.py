"""The encoder: the one home of CLIP's forward passes, for batch, search and serving."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from doggos_helpers.clip.files import model_folder
from doggos_helpers.clip.model import load_processor, load_tokenizer, load_tower
from doggos_helpers.data.images import Preprocessing


def load_preprocessing(model: str, revision: str = "") -> Preprocessing:
    """Read how the model's own processor resizes and crops."""
    return Preprocessing.of(load_processor(model_folder(model, revision)))


class ClipEncoder:
    """The image and text towers of a CLIP model, with unit-length output.

    Args:
        model: `sample`, a folder or a hub id.
        revision: Commit or tag of a hub model; empty: the newest.
        device: "cpu" or "cuda".
        dtype: "float32", "bfloat16" or "float16".
        threads: CPU threads for torch.
        towers: "image", "text" or both; load only what is needed.

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

        torch.set_num_threads(threads)
        self.device, self.dtype = device, getattr(torch, dtype)
        folder = model_folder(model, revision, weights=True)
        self._towers = {t: load_tower(folder, t, dtype).to(device) for t in towers}
        if "image" in towers:
            processor = load_processor(folder)
            self.preprocessing = Preprocessing.of(processor)
            scale = torch.tensor([processor.image_mean, processor.image_std]) * 255
            self._mean, self._std = scale.view(2, 1, 3, 1, 1).to(device)
        if "text" in towers:
            self._tokenizer = load_tokenizer(folder)
        words = folder / "words.json"
        self._words = json.loads(words.read_text()) if words.is_file() else []
        self.dimension = int(self._tower(towers[0]).config.projection_dim)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed uint8 [n, height, width, 3] of `images.decode`.

        Returns:
            float32 [n, dimension], each row of length one.
        """
        import torch

        tower = self._tower("image")
        with torch.inference_mode():
            # torch warns of read-only arrays, and Ray's batches are read-only.
            batch = torch.from_numpy(np.array(pixels)).to(self.device)
            batch = batch.permute(0, 3, 1, 2).float()
            batch = ((batch - self._mean) / self._std).to(self.dtype)
            return _unit(tower(pixel_values=batch).image_embeds)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; words that the model doesn't know are warned of.

        Returns:
            float32 [n, dimension], each row of length one.
        """
        import torch

        tower = self._tower("text")
        if unknown := sorted({w for text in texts for w in self.unknown_words(text)}):
            what = "The model has never seen the words: %s. It knows these: %s"
            words = (", ".join(unknown), ", ".join(self._words))
            logging.getLogger(__name__).warning(what, *words)
        most = tower.config.max_position_embeddings
        options = {"padding": True, "truncation": True, "max_length": most}
        tokens = self._tokenizer(list(texts), **options, return_tensors="pt")
        with torch.inference_mode():
            return _unit(tower(**tokens.to(self.device)).text_embeds)

    def unknown_words(self, text: str) -> list[str]:
        """Return words that aren't in words.json; without one a model knows all."""
        words = "".join(c if c.isalpha() else " " for c in text.lower()).split()
        return [w for w in words if w not in self._words] if self._words else []

    def _tower(self, name: str) -> Any:
        if name not in self._towers:
            raise ValueError(f"this encoder was loaded without its {name} tower")
        return self._towers[name]


def _unit(vectors: Any) -> np.ndarray:
    vectors = vectors.float()
    return (vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy()
