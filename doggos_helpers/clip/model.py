"""The parts of a CLIP model: loading them, and whether they are whole.

transformers checks names, shapes and formats as it loads a model, and runs no code of
pickles; what it lets pass in silence is checked here.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doggos_helpers.clip.files import FIX, hub_problem, model_folder, model_source
from doggos_helpers.data.images import Preprocessing, preprocess
from doggos_helpers.errors import ModelError
from doggos_helpers.settings import Settings

COPY = "Copy all files again from the same CLIP model, saved with its projections"
CLIP = "Use a CLIP model for RGB images, such as openai/clip-vit-base-patch32"
TOWERS = {  # what transformers calls them, in its classes and in weights and types
    "image": ("CLIPVisionModelWithProjection", "vision_model"),
    "text": ("CLIPTextModelWithProjection", "text_model"),
}
PARTS = {  # of a model, what to do where one can't be loaded
    "AutoConfig": ("config", COPY),
    "AutoImageProcessor": (
        "image processor",
        "Copy preprocessor_config.json from the original model",
    ),
    "AutoTokenizer": (
        "tokenizer",
        "Search by image, or copy tokenizer.json from the original model",
    ),
}


def check_model(settings: Settings, towers: Sequence[str] = ("image",)) -> None:
    """Load the model of the settings once, to see that it can do what is asked.

    The weights of a hub model are left to the workers, where they aren't cached.

    Args:
        settings: For model and model_revision.
        towers: "image", "text" or both: what the model is needed for.

    Raises:
        ModelError: It can't be found, isn't a CLIP model, is damaged, or lacks what a
            tower needs.
    """
    model, revision = settings.model, settings.model_revision
    folder = model_folder(model, revision)
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    for tower in towers:
        config = tower_config(model, revision, tower)
        if weights or folder.parent.name != "snapshots":
            load_tower(model, revision, tower, "float32")
        if tower == "text":
            load_tokenizer(model, revision)
        else:
            _check_processor(load_processor(model, revision), config.image_size, model)


def load_part(loader: str, model: str, revision: str, **options: Any) -> Any:
    """Call the `from_pretrained` of a class of transformers.

    Raises:
        ModelError: With the first line of what transformers says.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, source = model_folder(model, revision), model_source(model)
    if not (folder / "config.json").is_file():
        raise ModelError("not a model: the folder has no config.json", source, FIX)
    if folder != Path(source):  # the commit, which holds more files than are here
        options |= {"revision": folder.name, "local_files_only": bool(hub_problem())}
    try:
        return getattr(transformers, loader).from_pretrained(source, **options)
    except Exception as error:  # what transformers raises isn't one family
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        part, fix = PARTS.get(loader, ("weights", COPY))
        raise ModelError(
            f"can't load the model's {part} ({why})", source, fix
        ) from error


def tower_config(model: str, revision: str, tower: str) -> Any:
    """Read what a tower is like: "image" or "text".

    Raises:
        ModelError: The model is none, or lacks it.
    """
    config = load_part("AutoConfig", model, revision)
    kind, own = config.model_type, f"clip_{TOWERS[tower][1]}"
    if kind not in ("clip", own):
        what = f"not a CLIP model with {tower}s but of type {kind}"
        raise ModelError(what, model, CLIP)
    whole = {"image": "vision_config", "text": "text_config"}[tower]
    return config if kind == own else getattr(config, whole)


def load_tower(model: str, revision: str, tower: str, dtype: str) -> Any:
    """Load one tower of a model.

    Raises:
        ModelError: It isn't whole: what is missing would be random, and what is beyond
            its config left out.
    """
    import torch

    tower_config(model, revision, tower)
    loader, prefix = TOWERS[tower]
    options = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    loaded, report = load_part(loader, model, revision, **options)
    if lacking := sorted(report["missing_keys"]):
        what = f"lacks {len(lacking)} weights, such as {lacking[0]}"
        raise ModelError(f"the model {what}", model, COPY)
    if beyond := sorted(n for n in report["unexpected_keys"] if n.startswith(prefix)):
        what = f"has weights that config.json doesn't know, such as {beyond[0]}"
        raise ModelError(f"the model {what}", model, COPY)
    return loaded.eval()


def load_tokenizer(model: str, revision: str) -> Any:
    """Load a model's tokenizer.

    Raises:
        ModelError: It has none; transformers would make an empty one.
    """
    tokenizer = load_part("AutoTokenizer", model, revision)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        what = "the model has no tokenizer, so it can't embed texts"
        raise ModelError(what, model, PARTS["AutoTokenizer"][1])
    return tokenizer


@functools.lru_cache(maxsize=4)
def load_processor(model: str, revision: str) -> Any:
    """Load a model's own image processor.

    Raises:
        ModelError: It has none, or it can't be loaded.
    """
    # Without torchvision PIL is what is left; named, it needs no warning.
    return load_part("AutoImageProcessor", model, revision, backend="pil")


def preprocessing_of(processor: Any) -> Preprocessing:
    """Read how an image processor resizes and crops."""
    size = dict(processor.size or {})
    crop = dict(processor.crop_size or {}) if processor.do_center_crop else size
    return Preprocessing(
        shortest_edge=int(size.get("shortest_edge") or 0),
        crop=(int(crop["height"]), int(crop["width"])),
        resample=int(processor.resample),
    )


def _check_processor(processor: Any, edge: int, model: str) -> None:
    """Compare one image through the model's own processor and through ours."""
    from PIL import Image

    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (3 * edge, 2 * edge, 3), np.uint8))
    try:
        theirs = np.array(processor(images=image, return_tensors="np").pixel_values)[0]
        mean, std = np.array(processor.image_mean), np.array(processor.image_std)
        pixels = preprocess(image, preprocessing_of(processor))
        ours = ((pixels / 255 - mean) / std).transpose(2, 0, 1)
    except Exception as error:  # it does something that ours doesn't know
        why = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"the image processor is not for RGB images of one size ({why})"
        raise ModelError(what, model, CLIP) from error
    if theirs.shape[1:] != (edge, edge):
        made = " x ".join(map(str, theirs.shape[1:]))
        what = f"the image processor makes {made} pixels, and the model takes"
        raise ModelError(f"{what} {edge} x {edge}", model, COPY)
    if theirs.shape != ours.shape or np.abs(theirs - ours).max() > 0.02:
        what = "the image processor doesn't resize, crop, rescale and normalise alone"
        raise ModelError(what, model, CLIP)
