"""The encoder: agreement with transformers' own processor, errors, words."""

import io
import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
)

from doggos_helpers.clip.encoder import ClipEncoder, load_preprocessing
from doggos_helpers.clip.files import model_fingerprint, model_source
from doggos_helpers.clip.model import check_model
from doggos_helpers.data.images import decode, preprocess, upright
from doggos_helpers.errors import ModelError
from doggos_helpers.settings import Settings
from doggos_sample import MODEL_DIR, write_dataset
from tests.photos import FOLDER, needs_photos


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return ClipEncoder("sample", threads=2, towers=["image", "text"])


def files(folder) -> list[bytes]:
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in kinds)
    return [path.read_bytes() for path in found]


def own_processor_embeddings(images: list[Image.Image]) -> np.ndarray:
    """Embed with transformers alone: its processor, its model class."""
    processor = AutoImageProcessor.from_pretrained(MODEL_DIR, backend="pil")
    model = CLIPVisionModelWithProjection.from_pretrained(
        MODEL_DIR, dtype=torch.float32
    )
    pixels = torch.cat(
        [processor(i, return_tensors="pt")["pixel_values"] for i in images]
    )
    with torch.inference_mode():
        vectors = model(pixel_values=pixels).image_embeds.numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check_agreement(encoder: ClipEncoder, data: list[bytes]) -> None:
    ours = np.stack([decode(d, encoder.preprocessing) for d in data])
    images = [upright(d) for d in data]
    sizes = np.array([i.size for i in images])
    cosines = (encoder.encode_images(ours) * own_processor_embeddings(images)).sum(1)
    low = np.percentile(cosines, 1)
    print(
        f"{len(data)} images of {sizes.min()} to {sizes.max()} px: 1st pct. {low:.5f}"
    )
    assert low >= 0.999


def test_agrees_with_the_models_own_processor_on_drawn_images(encoder, tmp_path):
    write_dataset(tmp_path / "dogs", images_per_breed=6, seed=5)
    check_agreement(encoder, files(tmp_path / "dogs"))


@needs_photos
def test_agrees_with_the_models_own_processor_on_photographs(encoder):
    check_agreement(encoder, files(FOLDER))


def test_agrees_on_large_jpegs_decoded_at_a_lower_resolution(encoder):
    random = np.random.default_rng(0)
    data = []
    for _ in range(8):
        coarse = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((2000, 1500)).save(buffer, "JPEG", quality=88)
        data.append(buffer.getvalue())
    check_agreement(encoder, data)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (97, 96), (41, 300)])
def test_geometry_is_the_processors_own(size):
    image = Image.effect_noise(size, 90).convert("RGB")
    processor = AutoImageProcessor.from_pretrained(MODEL_DIR, backend="pil")
    theirs = processor(image, do_normalize=False, return_tensors="np")["pixel_values"]
    ours = preprocess(image, load_preprocessing("sample"))
    theirs = (theirs[0].transpose(1, 2, 0) * 255).round()
    assert np.abs(theirs - ours).max() <= 1


def test_vectors_have_unit_length_and_a_batch_changes_nothing(encoder):
    pixels = np.random.default_rng(0).integers(
        0, 255, (5, *encoder.preprocessing.crop, 3)
    )
    pixels = pixels.astype(np.uint8)
    pixels.flags.writeable = False  # as Ray's batches are
    together = encoder.encode_images(pixels)
    alone = np.concatenate([encoder.encode_images(p[None]) for p in pixels])
    assert together.shape == (5, encoder.dimension) and together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-5)


def test_texts_in_one_batch_are_embedded_as_alone(encoder):
    texts = ["a black dog", "a photo of a white dog with floppy ears in the snow"]
    together = encoder.encode_texts(texts)
    alone = np.concatenate([encoder.encode_texts([t]) for t in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_unknown_words_are_named_and_known_ones_are_not(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        encoder.encode_texts(["a black dog"])
        assert not caplog.records
        encoder.encode_texts(["a black xylophone"])
    [record] = caplog.records
    assert "xylophone" in record.getMessage() and "black" in record.getMessage()
    assert encoder.unknown_words("A Black, xylophone!") == ["xylophone"]


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """Save a random CLIP without a list of words, as hub models are."""
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = CLIPConfig(
        text_config=tower | {"num_attention_heads": 2, "projection_dim": 16},
        vision_config=tower
        | {"num_attention_heads": 2, "image_size": 64, "patch_size": 32}
        | {"projection_dim": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(MODEL_DIR, backend="pil")
    processor.size, processor.crop_size = (
        {"shortest_edge": 64},
        {"height": 64, "width": 64},
    )
    processor.save_pretrained(folder)
    return folder


def test_another_model_has_its_own_size_and_no_warnings(small_clip):
    other = ClipEncoder(str(small_clip))
    assert other.preprocessing.crop == (64, 64)
    assert other.encode_images(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 16)
    assert other.unknown_words("a xylophone") == []


def test_a_tower_that_was_not_loaded_says_so(encoder):
    with pytest.raises(ValueError, match="without its text tower"):
        ClipEncoder("sample").encode_texts(["a dog"])
    assert not hasattr(ClipEncoder("sample", towers=["text"]), "preprocessing")


def test_missing_weights_and_missing_folders_are_errors(small_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in small_clip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 are missing.*visual_projection"):
        ClipEncoder(str(tmp_path))
    with pytest.raises(ModelError, match="1 are missing.*visual_projection"):
        check_model(Settings(model=str(tmp_path)))
    with pytest.raises(ModelError, match="no folder here"):
        ClipEncoder(str(tmp_path / "nowhere"))
    assert model_fingerprint(str(tmp_path)) != model_fingerprint(str(small_clip))
    assert model_source("sample") == str(MODEL_DIR)


def test_each_way_to_save_a_model_passes_the_check(small_clip, tmp_path):
    from transformers import CLIPProcessor, PreTrainedTokenizerFast

    check_model(Settings(model="sample"), ["image", "text"])
    check_model(Settings(model=str(small_clip)))
    with pytest.raises(ModelError, match="no tokenizer"):
        check_model(Settings(model=str(small_clip)), ["text"])

    whole = tmp_path / "whole"  # sharded; processor and tokenizer in one
    CLIPModel.from_pretrained(small_clip).save_pretrained(whole, max_shard_size="20KB")
    assert len(list(whole.glob("*.safetensors"))) > 1
    image_processor = AutoImageProcessor.from_pretrained(small_clip, backend="pil")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_DIR)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(whole)
    assert not (whole / "preprocessor_config.json").exists()
    check_model(Settings(model=str(whole)), ["image", "text"])
    assert ClipEncoder(str(whole)).preprocessing.crop == (64, 64)

    images = tmp_path / "images"
    tower = CLIPVisionModelWithProjection.from_pretrained(small_clip)
    tower.save_pretrained(images)
    image_processor.save_pretrained(images)
    check_model(Settings(model=str(images)))
    assert ClipEncoder(str(images)).dimension == 16
    with pytest.raises(
        ModelError, match="not a CLIP model with texts but of type clip_vision_model"
    ):
        check_model(Settings(model=str(images)), ["text"])

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (pickled / name).write_bytes((small_clip / name).read_bytes())
    weights = CLIPModel.from_pretrained(small_clip).state_dict()
    torch.save(weights, pickled / "pytorch_model.bin")
    check_model(Settings(model=str(pickled)))
    assert ClipEncoder(str(pickled)).dimension == 16


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_normalize": False}, "doesn't just resize and crop to 64 x 64"),
        ({"do_resize": False, "do_rescale": False}, "image processor"),
        ({"rescale_factor": 1 / 127.5}, "doesn't just resize and crop"),
        ({"image_mean": [0.5], "image_std": [0.5]}, "not for RGB images"),
        ({"crop_size": 32}, "doesn't just resize and crop to 64 x 64"),
        ({"do_center_crop": False}, "of one size"),
    ],
)
def test_a_processor_that_does_something_else_is_refused(
    small_clip, tmp_path, values, message
):
    shutil.copytree(small_clip, tmp_path / "clip")
    edit(tmp_path / "clip" / "preprocessor_config.json", **values)
    with pytest.raises(ModelError, match=message):
        check_model(Settings(model=str(tmp_path / "clip")))


def test_the_processor_file_of_the_first_clip_passes(small_clip, tmp_path):
    shutil.copytree(small_clip, tmp_path / "clip")
    # Numbers for sizes, and nothing said of rescaling, as in OpenAI's repositories.
    first = {"crop_size": 64, "do_center_crop": True, "do_normalize": True}
    first |= {"do_resize": True, "feature_extractor_type": "CLIPFeatureExtractor"}
    first |= {
        "image_mean": [0.5] * 3,
        "image_std": [0.3] * 3,
        "resample": 3,
        "size": 64,
    }
    file = tmp_path / "clip" / "preprocessor_config.json"
    file.write_text(json.dumps(first))
    check_model(Settings(model=str(tmp_path / "clip")))
    assert load_preprocessing(str(tmp_path / "clip")).crop == (64, 64)
