"""The files of a CLIP model, checked before anything heavy is imported or started.

Only JSON files and the headers of weights are read here; torch is imported for pickled
weights alone. What a file can't tell, loading the model does: see `clip`.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from doggos_helpers.errors import ModelError
from doggos_helpers.settings import SAMPLE, Settings

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
FIX = (
    "Set DOGGOS_MODEL to sample, a hub id that this machine can reach, or a folder"
    " written by save_pretrained"
)
TOKENIZERS = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class Tower:
    """What one tower is called in configs and weights; transformers' defaults."""

    config: str
    prefix: str
    projection: str
    defaults: dict[str, int]


TOWERS = {
    "image": Tower(
        config="vision_config",
        prefix="vision_model",
        projection="visual_projection.weight",
        defaults={"hidden_size": 768, "intermediate_size": 3072, "patch_size": 32}
        | {"image_size": 224, "num_channels": 3, "num_hidden_layers": 12}
        | {"projection_dim": 512},
    ),
    "text": Tower(
        config="text_config",
        prefix="text_model",
        projection="text_projection.weight",
        defaults={"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 49408}
        | {"max_position_embeddings": 77, "num_hidden_layers": 12}
        | {"projection_dim": 512},
    ),
}


def model_source(model: str) -> str:
    """Resolve a model setting to a folder or hub id, on the machine it runs on."""
    if model == SAMPLE:
        from doggos_sample import MODEL_DIR

        return str(MODEL_DIR)
    return model


def check_model(settings: Settings, towers: Sequence[str] = ("image",)) -> None:
    """Check that the model of the settings can do what is asked, in about a second.

    Of a hub model the config and the processor are fetched; from the cache, where the
    hub doesn't answer within ten seconds (HF_HUB_ETAG_TIMEOUT).

    Args:
        settings: For model and model_revision.
        towers: "image", "text" or both: what the model is needed for.

    Raises:
        ModelError: It can't be found, isn't a CLIP model, is damaged, or lacks a
            tower that is needed.
    """
    source = model_source(settings.model)
    path = Path(source)
    if path.is_file():
        _refuse("the model is a file, not a folder", source, f"Name {path.parent}")
    if path.is_dir():
        folder = path
    elif source.startswith("/"):
        _refuse("no such model folder", source)
    else:
        files: list[Sequence[str]] = [(CONFIG,)]
        files += [PROCESSORS] if "image" in towers else []
        files += [TOKENIZERS] if "text" in towers else []
        folder = hub_folder(source, settings.model_revision, files)
    if not (folder / CONFIG).is_file():
        _refuse(f"not a model: the folder has no {CONFIG}", source)
    config = _read_json(folder / CONFIG)
    configs = {name: _tower_config(config, name, source) for name in towers}
    if "image" in towers:
        _check_processor(folder, configs["image"])
    if "text" in towers and not any((folder / n).is_file() for n in TOKENIZERS):
        _refuse(
            "the model has no tokenizer, so it can't embed texts",
            source,
            "Search by image, or copy tokenizer.json from the original model",
        )
    if path.is_dir() or (folder / WEIGHTS).is_file():
        _check_weights(folder, configs)


def _refuse(what: str, where: object, fix: str = FIX) -> NoReturn:
    raise ModelError(what, str(where), fix)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"can't read the model's file ({error})", str(file), FIX
        ) from (error)
    if not isinstance(content, dict):
        _refuse("the model's file holds no names and values", file)
    return content


def _tower_config(config: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """Return the settings of a tower, with transformers' defaults below them."""
    tower, kind = TOWERS[name], config.get("model_type") or "unknown"
    alone = {f"clip_{t.prefix}": other for other, t in TOWERS.items()}
    if kind == "clip":
        own = config.get(tower.config) or {}
    elif kind in alone:
        if alone[kind] != name:
            fix = f"Use a CLIP model with {'an' if name == 'image' else 'a'} {name}"
            _refuse(
                f"the model has no {name} tower, only one for {alone[kind]}s",
                source,
                f"{fix} tower",
            )
        own = config
    else:
        what = f"not a CLIP model but of type {kind}, which has no {name} projection"
        _refuse(what, source, "Use a CLIP model, such as openai/clip-vit-base-patch32")
    return tower.defaults | own


def _check_processor(folder: Path, vision: dict[str, Any]) -> None:
    """Check that the processor prepares what the tower takes, in a way we imitate."""
    file = next((folder / n for n in PROCESSORS if (folder / n).is_file()), None)
    if file is None:
        fix = f"Copy {PROCESSORS[0]} from the original model"
        _refuse("the model has no image processor", folder / PROCESSORS[0], fix)
    processor = _read_json(file)
    processor = processor.get("image_processor", processor)
    fix = "Use a CLIP model for RGB images, with its own image processor"
    channels = {vision["num_channels"]} | {
        len(processor[n]) for n in ("image_mean", "image_std") if processor.get(n)
    }
    if channels != {3} or processor.get("do_grayscale"):
        _refuse(
            "the model is for grey-scale images, and ours have 3 channels", file, fix
        )
    steps = ("do_resize", "do_rescale", "do_normalize")
    if left_out := [n for n in steps if processor.get(n) is False]:
        _refuse(f"the image processor leaves out {', '.join(left_out)}", file, fix)
    if abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        _refuse("the image processor has a rescale_factor other than 1/255", file, fix)
    _check_size(file, processor, vision["image_size"])


def _check_size(file: Path, processor: dict[str, Any], edge: int) -> None:
    """Check that the processor makes images of the size that the tower takes."""
    fix = "Copy all files from the same model again"
    crops = processor.get("do_center_crop", "crop_size" in processor)
    size = processor.get("crop_size" if crops else "size")
    if size is None:  # then the processor's class knows
        return
    if isinstance(size, int):
        size = {"height": size, "width": size}
    made = [size.get("height"), size.get("width")]
    if None in made:
        _refuse("the image processor makes images of no fixed size", file, fix)
    if made != [edge, edge]:
        _refuse(
            f"the image processor makes {made[0]} x {made[1]} pixels, and the model"
            f" takes {edge} x {edge}",
            file,
            fix,
        )


def _check_weights(folder: Path, configs: dict[str, dict[str, Any]]) -> None:
    """Compare names and shapes of the weights with what the config says."""
    fix = "Copy all files from the same model again"
    shapes = _shapes(folder)
    for name, config in configs.items():
        tower = TOWERS[name]
        if tower.projection not in shapes:
            _refuse(
                f"the model lacks its {name} projection ({tower.projection})",
                folder,
                "Use a CLIP model saved with its projections (CLIPModel)",
            )
        expected = _expected(tower, config)
        if lacking := [n for n in expected if n not in shapes]:
            what = f"the model lacks {len(lacking)} weights, such as {lacking[0]}"
            _refuse(what, folder, fix)
        wrong = [n for n, shape in expected.items() if shapes[n] != shape]
        if wrong:
            _refuse(
                f"the weights don't match {CONFIG}: {wrong[0]} is"
                f" {list(shapes[wrong[0]])} and should be {list(expected[wrong[0]])}",
                folder,
                fix,
            )
        beyond = f"{tower.prefix}.encoder.layers.{config['num_hidden_layers']}."
        if any(n.startswith(beyond) for n in shapes):
            what = f"the weights have more {name} layers than {CONFIG}"
            _refuse(what, folder, fix)


def _expected(tower: Tower, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name the weights that each number of the config decides, with their shapes."""
    hidden, inside = config["hidden_size"], f"{tower.prefix}.embeddings"
    first: dict[str, tuple[int, ...]]
    if tower is TOWERS["image"]:
        patch, channels = config["patch_size"], config["num_channels"]
        positions = (config["image_size"] // patch) ** 2 + 1
        first = {f"{inside}.patch_embedding.weight": (hidden, channels, patch, patch)}
    else:
        positions = config["max_position_embeddings"]
        first = {f"{inside}.token_embedding.weight": (config["vocab_size"], hidden)}
    layers = range(config["num_hidden_layers"])
    feed_forward = (config["intermediate_size"], hidden)
    return (
        first
        | {f"{inside}.position_embedding.weight": (positions, hidden)}
        | {
            f"{tower.prefix}.encoder.layers.{i}.mlp.fc1.weight": feed_forward
            for i in layers
        }
        | {tower.projection: (config["projection_dim"], hidden)}
    )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight, from the file that transformers would load."""
    for name, read in ((WEIGHTS, _safetensors_shapes), (PICKLE, _pickle_shapes)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read(folder / name)
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            if lacking := [s for s in shards if not (folder / s).is_file()]:
                _refuse(f"a part of the weights is missing: {lacking[0]}", folder)
            return {k: v for shard in shards for k, v in read(folder / shard).items()}
    _refuse(f"the model has no weights ({WEIGHTS} or {PICKLE})", folder)


def _safetensors_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            names = weights.keys()
            return {n: tuple(weights.get_slice(n).get_shape()) for n in names}
    except (SafetensorError, OSError) as error:
        fix = "Copy or download the file again"
        raise ModelError(
            f"the weights are damaged or cut short ({error})", str(file), fix
        ) from error


def _pickle_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Read weights of PyTorch's own format; code inside them is refused, not run."""
    import pickle

    import torch

    try:
        content = torch.load(file, map_location="meta", weights_only=True, mmap=True)
        return {name: tuple(tensor.shape) for name, tensor in content.items()}
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the weights are a pickle that could run code, and were not loaded",
            str(file),
            "Use a model with safetensors weights, from someone you trust",
        ) from error
    except Exception as error:  # a damaged file makes torch raise many kinds
        raise ModelError(
            f"the weights can't be read ({str(error).splitlines()[0]})", str(file), FIX
        ) from error


@functools.lru_cache(maxsize=1)
def _hub_problem(minute: int) -> str:
    """Ask the hub for a sign of life, once a minute; return why there is none.

    Its client would retry each file five times, up to minutes for each.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of the HTTP client that huggingface_hub has chosen
        return str(error) or type(error).__name__
    return ""


def hub_problem() -> str:
    """Return why the hub can't be reached, or nothing, within ten seconds."""
    return _hub_problem(int(time.time() // 60))


def hub_folder(model: str, revision: str, files: Sequence[Sequence[str]]) -> Path:
    """Fetch small files of a hub model and return the folder where they lie.

    Args:
        model: Its id.
        revision: Commit or tag; empty: the newest.
        files: Names; of each group the first one that the model has. It must have one
            of the first group.

    Raises:
        ModelError: It isn't there, or can't be reached and isn't in the cache.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub

    def fetch(*names: str) -> Path | None:
        for name in names:
            with contextlib.suppress(*lacking):
                file = hf_hub_download(
                    model, name, revision=revision or None, local_files_only=bool(why)
                )
                return Path(file)
        return None

    why = hub_problem()
    lacking: list[type[Exception]] = [hub.RemoteEntryNotFoundError]
    if why:
        lacking.append(hub.LocalEntryNotFoundError)
    try:
        found = [fetch(*names) for names in files]
        if found[0] is None and why:
            raise OSError(why)
        if found[0] is None:
            raise ModelError(
                f"not a model: the hub has no {files[0][0]} of it", model, FIX
            )
        return found[0].parent
    except hub.GatedRepoError:
        raise ModelError(
            "the hub gives this model to its members alone", model, "Set HF_TOKEN"
        ) from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        what = "no folder here and no model on the hub has this name"
        raise ModelError(what, model, FIX) from None
    except hub.RevisionNotFoundError:
        fix = "Check DOGGOS_MODEL_REVISION"
        what = "the hub's model has no such revision"
        raise ModelError(what, f"{model}@{revision}", fix) from None
    except OSError as error:
        why = why or (str(error).splitlines() or ["no answer"])[0]
        raise ModelError(
            f"the hub can't be reached, and the model is not in its cache ({why})",
            f"{model} at {constants.ENDPOINT}",
            "Copy the model's folder to this machine and set DOGGOS_MODEL to it, use"
            " DOGGOS_MODEL=sample, or set HTTPS_PROXY or HF_ENDPOINT to reach a hub",
        ) from error


def model_fingerprint(model: str, revision: str = "") -> str:
    """Hash a model folder's files, so that new weights make old embeddings stale.

    A hub model is named by its id and revision. Of a file over 64 MiB only the size
    and the first 64 MiB count.
    """
    folder = Path(model_source(model))
    digest = hashlib.sha256()
    if not folder.is_dir():
        return f"{model}@{revision or 'newest'}"
    for file in sorted(folder.glob("*")):
        if file.name in ("config.json", "preprocessor_config.json") or (
            file.suffix in (".safetensors", ".bin")
        ):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as content:
                digest.update(content.read(64 << 20))
    return digest.hexdigest()[:16]
