"""CLIP: the one home of the model, for batch work, search and serving."""

import functools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.clip.model import (
    FIX,
    check_model,
    hub_problem,
    model_fingerprint,
    model_source,
)
from doggos_helpers.data.images import Preprocessing
from doggos_helpers.errors import ModelError

__all__ = [
    "ClipEncoder",
    "check_model",
    "known_words",
    "load_preprocessing",
    "model_fingerprint",
    "model_source",
]


def _load(loader: Any, model: str, revision: str, **options: Any) -> Any:
    """Call `from_pretrained`, and say what to do when it can't."""
    source = model_source(model)
    if source.startswith("/") and not Path(source).is_dir():
        raise ModelError("no such model folder", source, FIX)
    if not Path(source).is_dir():
        options["local_files_only"] = bool(hub_problem())
    try:
        return loader.from_pretrained(source, revision=revision or None, **options)
    except Exception as error:  # what transformers raises isn't one family
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"can't load the CLIP model ({why})", model, FIX) from error


def _load_tower(loader: Any, model: str, revision: str, dtype: Any) -> Any:
    """Load one tower; weights that are missing would be random, so they are an error.

    transformers reports the other tower's weights as unexpected: that is as intended.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tower, report = _load(
        loader, model, revision, dtype=dtype, output_loading_info=True
    )
    if lacking := sorted(report["missing_keys"]):
        raise ModelError(
            f"the model lacks {len(lacking)} weights of {loader.__name__},"
            f" such as {lacking[0]}",
            model,
            "Use a CLIP model with image and text projections",
        )
    return tower.eval()


def load_preprocessing(model: str, revision: str = "") -> Preprocessing:
    """Read how the model's own processor resizes and crops.

    Raises:
        ModelError: The model has no processor, or it can't be loaded.
    """
    return _preprocessing(_processor(model, revision))


@functools.lru_cache(maxsize=4)
def _processor(model: str, revision: str) -> Any:
    from transformers import AutoImageProcessor

    # Without torchvision PIL is what is left; named, it needs no warning.
    return _load(AutoImageProcessor, model, revision, backend="pil")


def _preprocessing(processor: Any) -> Preprocessing:
    size = dict(processor.size or {})
    crop = dict(processor.crop_size or {}) if processor.do_center_crop else size
    return Preprocessing(
        shortest_edge=int(size.get("shortest_edge") or 0),
        crop=(int(crop["height"]), int(crop["width"])),
        resample=int(processor.resample),
    )


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
        from transformers import (
            CLIPTextModelWithProjection,
            CLIPVisionModelWithProjection,
        )

        if threads:
            torch.set_num_threads(threads)
        self.model, self.device = model, device
        self.dtype = getattr(torch, dtype)
        self._image: Any = None
        self._text: Any = None
        self._tokenizer: Any = None
        if "image" in towers:
            tower = _load_tower(
                CLIPVisionModelWithProjection, model, revision, self.dtype
            )
            self._image = tower.to(device)
            processor = _processor(model, revision)
            self.preprocessing = _preprocessing(processor)
            shape = (1, 3, 1, 1)
            mean, std = processor.image_mean, processor.image_std
            self._mean = torch.tensor(mean, device=device).view(shape) * 255
            self._std = torch.tensor(std, device=device).view(shape) * 255
            self.dimension = int(tower.config.projection_dim)
        if "text" in towers:
            from transformers import AutoTokenizer

            tower = _load_tower(
                CLIPTextModelWithProjection, model, revision, self.dtype
            )
            self._text = tower.to(device)
            self._tokenizer = _load(AutoTokenizer, model, revision)
            self.dimension = int(tower.config.projection_dim)

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
