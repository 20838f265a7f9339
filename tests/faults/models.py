"""Cases: models. Each is a copy of the sample's model in which one thing is wrong."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doggos_helpers.clip.files import FIX
from doggos_helpers.settings import Settings
from doggos_sample import MODEL_DIR
from tests.faults.case import Case, Outcome, Place
from tests.faults.hub import hub_model, hub_without_models, no_hub, silent_hub
from tests.synthetic import write_embeddings

ANSWER_S = 3  # what needs no network is found within
HUB_S = 30  # ten seconds for the hub, the rest for imports on a busy machine
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"


def photographs(place: Place) -> None:
    """Choose a data set of two classes, two images each in each split."""
    from PIL import Image

    for height, split in enumerate(("train", "val", "test"), start=120):
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            folder = place.folder / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (150 + i, height), colour).save(folder / f"{i}.png")
    place.environment["DOGGOS_DATASET"] = str(place.folder / "photos")


def copied(place: Place) -> Path:
    """Choose a copy of the sample's model, and images for it."""
    photographs(place)
    folder = place.folder / "model"
    shutil.copytree(MODEL_DIR, folder)
    place.environment["DOGGOS_MODEL"] = str(folder)
    return folder


def edited(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def reweighed(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = change(load_file(folder / WEIGHTS))
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


# --- provoked -----------------------------------------------------------------


def unknown_id(place: Place) -> Sequence[str]:
    photographs(place)
    hub_model(place, hub_without_models())
    return ["embed"]


def silence(place: Place) -> Sequence[str]:
    photographs(place)
    hub_model(place, silent_hub())
    return ["embed"]


def closed_port(place: Place) -> Sequence[str]:
    photographs(place)
    hub_model(place, no_hub())
    return ["embed"]


def no_folder(place: Place) -> Sequence[str]:
    photographs(place)
    place.environment["DOGGOS_MODEL"] = str(place.folder / "clip")
    return ["embed"]


def a_file(place: Place) -> Sequence[str]:
    folder = copied(place)
    place.environment["DOGGOS_MODEL"] = str(folder / WEIGHTS)
    return ["embed"]


def not_a_model(place: Place) -> Sequence[str]:
    photographs(place)
    place.environment["DOGGOS_MODEL"] = place.environment["DOGGOS_DATASET"]
    return ["embed"]


def without_weights(place: Place) -> Sequence[str]:
    (copied(place) / WEIGHTS).unlink()
    return ["embed"]


def cut_short(place: Place) -> Sequence[str]:
    weights = copied(place) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    return ["embed"]


def broken_config(place: Place) -> Sequence[str]:
    config = copied(place) / CONFIG
    config.write_text(config.read_text()[:200])
    return ["embed"]


def without_projection(place: Place) -> Sequence[str]:
    def change(weights):
        return {k: v for k, v in weights.items() if k != "visual_projection.weight"}

    reweighed(copied(place), change)
    return ["embed"]


def other_architecture(place: Place) -> Sequence[str]:
    """Make a ViT: it sees images, but has no space shared with texts."""
    folder = copied(place)
    reweighed(
        folder,
        lambda w: {
            k.replace("vision_model", "vit"): v
            for k, v in w.items()
            if k.startswith("vision_model")
        },
    )
    config = json.loads((folder / CONFIG).read_text())["vision_config"]
    config |= {"model_type": "vit", "architectures": ["ViTModel"]}
    (folder / CONFIG).write_text(json.dumps(config))
    return ["embed"]


def text_only(place: Place) -> Sequence[str]:
    """Leave what CLIPTextModelWithProjection.save_pretrained writes."""
    folder = copied(place)
    config = json.loads((folder / CONFIG).read_text())["text_config"]
    (folder / CONFIG).write_text(json.dumps(config))
    reweighed(folder, lambda w: {k: v for k, v in w.items() if k.startswith("text")})
    return ["embed"]


def other_weights(place: Place) -> Sequence[str]:
    folder = copied(place)
    edited(folder / CONFIG, lambda c: c["vision_config"].update(patch_size=8))
    return ["embed"]


def fewer_layers(place: Place) -> Sequence[str]:
    folder = copied(place)
    edited(folder / CONFIG, lambda c: c["vision_config"].update(num_hidden_layers=2))
    return ["embed"]


class Burglar:
    """Unpickled without care, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def pickle_with_code(place: Place) -> Sequence[str]:
    import torch

    folder = copied(place)
    (folder / WEIGHTS).unlink()
    torch.save({"x": Burglar(place.folder / "burgled")}, folder / PICKLE)
    return ["embed"]


def not_run(place: Place, outcome: Outcome) -> None:
    import torch

    assert not (place.folder / "burgled").exists()
    # The pickle is a real one: where torch is told to trust it, it does run.
    torch.load(place.folder / "model" / PICKLE, weights_only=False)
    assert (place.folder / "burgled").exists()


def without_processor(place: Place) -> Sequence[str]:
    (copied(place) / PROCESSOR).unlink()
    return ["embed"]


def grey_scale(place: Place) -> Sequence[str]:
    folder = copied(place)
    edited(folder / CONFIG, lambda c: c["vision_config"].update(num_channels=1))
    edited(folder / PROCESSOR, lambda p: p.update(image_mean=[0.5], image_std=[0.25]))
    name = "vision_model.embeddings.patch_embedding.weight"
    reweighed(folder, lambda w: w | {name: w[name].sum(1, keepdims=True)})
    return ["embed"]


def other_processor(place: Place) -> Sequence[str]:
    crop = {"height": 224, "width": 224}
    edited(copied(place) / PROCESSOR, lambda p: p.update(crop_size=crop))
    return ["embed"]


def sized(folder: Path, edge: int) -> None:
    """Make a model for images of another size, as wide and as high."""
    edited(folder / CONFIG, lambda c: c["vision_config"].update(image_size=edge))
    crop = {"height": edge, "width": edge}
    size = {"shortest_edge": edge}
    edited(folder / PROCESSOR, lambda p: p.update(crop_size=crop, size=size))
    name = "vision_model.embeddings.position_embedding.weight"
    positions = (edge // 16) ** 2 + 1
    reweighed(folder, lambda w: w | {name: w[name][:positions].copy()})


def other_size_without_tokenizer(place: Place) -> Sequence[str]:
    folder = copied(place)
    sized(folder, 96)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return ["embed"]


def text_without_tokenizer(place: Place) -> Sequence[str]:
    for file in copied(place).glob("tokenizer*"):
        file.unlink()
    dataset, model = (place.environment[f"DOGGOS_{n}"] for n in ("DATASET", "MODEL"))
    settings = Settings(storage=str(place.storage), dataset=dataset, model=model)
    write_embeddings(settings)
    return ["search", "--text", "a black dog"]


def soon(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < ANSWER_S, outcome.seconds


def within_the_hubs_time(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < HUB_S, outcome.seconds


CASES: tuple[Case, ...] = (
    Case(
        area="Models",
        name="unknown hub id",
        provoke=unknown_id,
        code=4,
        message="neither the hub nor its cache gives it (RepositoryNotFoundError",
        cause="`DOGGOS_MODEL` names a hub id that doesn't exist, or a folder that isn't"
        " where the command was started.",
        fix=FIX,
        own_process=True,
        after=within_the_hubs_time,
    ),
    Case(
        area="Models",
        name="a hub that never answers",
        provoke=silence,
        code=4,
        message="neither the hub nor its cache gives it (ReadTimeout",
        cause="A hub model is asked for, and the hub doesn't answer within ten seconds"
        " (`HF_HUB_ETAG_TIMEOUT` changes that).",
        fix=FIX,
        own_process=True,
        after=within_the_hubs_time,
    ),
    Case(
        area="Models",
        name="no network for a hub model",
        provoke=closed_port,
        code=4,
        message="neither the hub nor its cache gives it (ConnectError",
        cause="A hub model is asked for on a machine without a network.",
        fix=FIX,
        own_process=True,
        after=within_the_hubs_time,
    ),
    Case(
        area="Models",
        name="no such folder",
        provoke=no_folder,
        code=4,
        message="the model is no folder here",
        cause="`DOGGOS_MODEL` is a path at which there is nothing.",
        fix=FIX,
        after=soon,
    ),
    Case(
        area="Models",
        name="a file in place of a folder",
        provoke=a_file,
        code=4,
        message="the model is no folder here",
        cause="`DOGGOS_MODEL` names the weights and not the folder that holds them.",
        fix=FIX,
        after=soon,
    ),
    Case(
        area="Models",
        name="a folder that isn't a model",
        provoke=not_a_model,
        code=4,
        message="can't load the model (ValueError: Unrecognized model in",
        cause="`DOGGOS_MODEL` names another folder, such as one of images.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="a config that isn't JSON",
        provoke=broken_config,
        code=4,
        message="can't load the model (OSError: It looks like the config file at",
        cause="A file of the model was copied or downloaded in part.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="no weights",
        provoke=without_weights,
        code=4,
        message="can't load the model (OSError: Error no file named model.safetensors",
        cause="The folder holds a model's config and nothing else.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="weights cut short",
        provoke=cut_short,
        code=4,
        message="can't load the model (SafetensorError",
        cause="A copy or download of the weights ended early.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="no image projection",
        provoke=without_projection,
        code=4,
        message="1 are missing and 0 too many, such as visual_projection.weight",
        cause="The model was saved without the layer that puts images and texts into"
        " one space.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="another kind of model",
        provoke=other_architecture,
        code=4,
        message="not a CLIP model with images but of type vit",
        cause="The model is a ViT, a ResNet or another one that isn't CLIP.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="a text-only model",
        provoke=text_only,
        code=4,
        message="not a CLIP model with images but of type clip_text_model",
        cause="Only the text tower of a CLIP model was saved.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="weights of another config",
        provoke=other_weights,
        code=4,
        message="can't load the model (RuntimeError",
        cause="`config.json` and the weights come from two models.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="more layers than the config says",
        provoke=fewer_layers,
        code=4,
        message="the model's weights don't fit its config.json: 0 are missing and",
        cause="`config.json` and the weights come from two models. transformers would"
        " leave the other layers out without a word.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="weights that run code",
        provoke=pickle_with_code,
        code=4,
        message="can't load the model (UnpicklingError: Weights only load failed",
        cause="`pytorch_model.bin` is a pickle with more than numbers in it.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=not_run,
    ),
    Case(
        area="Models",
        name="no image processor",
        provoke=without_processor,
        code=4,
        message="can't load the model (OSError: Can't load image processor for",
        cause="`preprocessor_config.json`, which says how to resize, is missing.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="a model for grey-scale images",
        provoke=grey_scale,
        code=4,
        message="the image processor is not for RGB images of one size (",
        cause="Model or processor take one channel.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="the processor of another model",
        provoke=other_processor,
        code=4,
        message="the image processor doesn't just resize and crop to 112 x 112",
        cause="`preprocessor_config.json` and `config.json` come from two models.",
        fix="Use all files of one CLIP model, such as openai/clip-vit-base-patch32",
        after=soon,
    ),
    Case(
        area="Models",
        name="another image size, and no tokenizer",
        provoke=other_size_without_tokenizer,
        code=0,
        message="12 embedded + 0 bad = 12",
        cause="No fault: embedding takes the size from the model, and needs no"
        " tokenizer.",
        fix="Nothing to do",
        printed_fix=False,
        cluster=True,
        long=True,
    ),
    Case(
        area="Models",
        name="text search without a tokenizer",
        provoke=text_without_tokenizer,
        code=4,
        message="the model has no tokenizer, so it can't embed texts",
        cause="The model was saved without `tokenizer.json`; searching by image works.",
        fix="Search by image, or copy tokenizer.json from the original model",
        after=soon,
    ),
)
