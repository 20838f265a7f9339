"""The parts of a CLIP model: loading them, and whether they are whole.

transformers checks names, shapes and formats as it loads a model, and runs no code of
pickles; what it lets pass in silence is checked here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.clip.files import model_folder, model_source, refused
from doggos_helpers.data.images import Preprocessing, preprocess
from doggos_helpers.errors import ModelError
from doggos_helpers.settings import Settings

COPY = "Use all files of one CLIP model, such as openai/clip-vit-base-patch32"
TOWERS = {  # transformers' class, the prefix of its weights, its part of a config
    "image": ("CLIPVisionModelWithProjection", "vision_model", "vision_config"),
    "text": ("CLIPTextModelWithProjection", "text_model", "text_config"),
}


def check_model(settings: Settings, towers: Sequence[str] = ("image",)) -> None:
    """Load some towers of the settings' model: "image", "text" or both.

    The weights of a hub model are left to the workers.

    Raises:
        ModelError: It can't be found, isn't a CLIP model, or isn't whole.
    """
    folder = model_folder(settings.model, settings.model_revision)
    config = load_part("AutoConfig", folder)
    for tower in towers:
        _, prefix, part = TOWERS[tower]
        if config.model_type not in ("clip", f"clip_{prefix}"):
            what = f"not a CLIP model with {tower}s but of type {config.model_type}"
            raise ModelError(what, str(folder), COPY)
        if folder == Path(model_source(settings.model)):
            load_tower(folder, tower, "float32")
        if tower == "text":
            load_tokenizer(folder)
        else:
            _check_processor(folder, getattr(config, part, config).image_size)


def load_part(loader: str, folder: Path, **options: Any) -> Any:
    """Call a `from_pretrained` of transformers; what it raises is a ModelError."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with refused("can't load the model", folder, COPY):
        return getattr(transformers, loader).from_pretrained(folder, **options)


def load_tower(folder: Path, tower: str, dtype: str) -> Any:
    """Load one tower of a model.

    Raises:
        ModelError: Weights would be random, or left out, in silence.
    """
    import torch

    loader, prefix, _ = TOWERS[tower]
    options = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    loaded, report = load_part(loader, folder, **options)
    lacking = report["missing_keys"]
    beyond = [name for name in report["unexpected_keys"] if name.startswith(prefix)]
    if lacking or beyond:
        counts = f"{len(lacking)} are missing and {len(beyond)} too many"
        what = f"the model's weights don't fit its config.json: {counts}, such as"
        raise ModelError(f"{what} {min([*lacking, *beyond])}", str(folder), COPY)
    return loaded.eval()


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer; where there is none, transformers would make an empty one."""
    tokenizer = load_part("AutoTokenizer", folder)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        what = "the model has no tokenizer, so it can't embed texts"
        fix = "Search by image, or copy tokenizer.json from the original model"
        raise ModelError(what, str(folder), fix)
    return tokenizer


def load_processor(folder: Path) -> Any:
    """Load a model's own image processor."""
    # Without torchvision PIL is what is left; named, it needs no warning.
    return load_part("AutoImageProcessor", folder, backend="pil")


def _check_processor(folder: Path, edge: int) -> None:
    """Compare one image through the model's own processor and through ours."""
    from PIL import Image

    processor, random = load_processor(folder), np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (3 * edge, 2 * edge, 3), np.uint8))
    with refused("the image processor is not for RGB images of one size", folder, COPY):
        theirs = np.array(processor(images=image, return_tensors="np").pixel_values)[0]
        pixels = preprocess(image, Preprocessing.of(processor))
        ours = (pixels / 255 - processor.image_mean) / processor.image_std
    fits = theirs.shape == (3, edge, edge) and ours.shape == (edge, edge, 3)
    if not fits or np.abs(theirs - ours.transpose(2, 0, 1)).max() > 0.02:
        what = f"the image processor doesn't just resize and crop to {edge} x {edge}"
        raise ModelError(f"{what}, rescale and normalise", str(folder), COPY)
