import importlib
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from doggos_helpers.clip.encoder import ClipEncoder
from doggos_sample import BREEDS, MODEL_DIR
from doggos_sample.breeds import TABLE
from doggos_sample.captions import WORDS, caption, prompt, vocabulary
from doggos_sample.parts import PARTS, part_map, visible
from doggos_sample.picture import random_framing, render, render_parts
from doggos_sample.traits import (
    at_random,
    breed_combinations,
    combinations,
    of_breed,
    possible,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tools():
    """Import the training's modules; its worker processes inherit the path."""
    names = ("batches", "data", "losses", "model", "training")
    modules = {n: importlib.import_module(f"doggos_sample.train.{n}") for n in names}
    modules["main"] = importlib.import_module("doggos_sample.train.__main__")
    yield modules


@pytest.fixture(scope="module")
def clip():
    import torch
    from transformers import (
        AutoImageProcessor,
        AutoTokenizer,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )

    kind = {"dtype": torch.float32}
    return {
        "image": CLIPVisionModelWithProjection.from_pretrained(MODEL_DIR, **kind),
        "text": CLIPTextModelWithProjection.from_pretrained(MODEL_DIR, **kind),
        "processor": AutoImageProcessor.from_pretrained(MODEL_DIR, backend="pil"),
        "tokenizer": AutoTokenizer.from_pretrained(MODEL_DIR),
    }


def embed_texts(clip, texts):
    import torch

    tokens = clip["tokenizer"](texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = clip["text"](**tokens).text_embeds.numpy()
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def embed_images(clip, images):
    import torch

    pixels = clip["processor"](images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        out = clip["image"](pixel_values=pixels).image_embeds.numpy()
    return out / np.linalg.norm(out, axis=1, keepdims=True)


# ---- the folder --------------------------------------------------------------


def test_model_folder_is_complete_and_small():
    names = {p.name for p in MODEL_DIR.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "words.json",
        "training_report.json",
    } <= names
    assert (MODEL_DIR / "model.safetensors").stat().st_size < 10e6
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))]


def test_the_folder_is_a_plain_clip_without_the_training_heads():
    from safetensors import safe_open

    with safe_open(MODEL_DIR / "model.safetensors", "np") as weights:
        stems = {name.split(".")[0] for name in weights.keys()}
    assert stems == {
        "logit_scale",
        "text_model",
        "text_projection",
        "vision_model",
        "visual_projection",
    }
    assert "attn" not in (MODEL_DIR / "config.json").read_text().replace(
        '"attention_dropout"', ""
    )


def test_report_says_how_it_was_trained():
    report = json.loads((MODEL_DIR / "training_report.json").read_text())
    assert report["steps"] > 0 and report["minutes"] > 0
    assert 10 <= len(report["loss"]) <= 61
    assert report["loss"][-1][1] < report["loss"][0][1]
    assert set(report["zero_shot"]) == set(WORDS)
    assert "auxiliary" in report["method"]


# ---- words -------------------------------------------------------------------


def test_tokens_of_its_own(clip):
    tokenizer, config = clip["tokenizer"], clip["text"].config
    assert config.eos_token_id == tokenizer.eos_token_id != 2
    four = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert len(four | {tokenizer.unk_token_id}) == 4
    ids = tokenizer("A Golden DOG xylophone")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert ids == tokenizer("a golden dog zeppelin")["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 1
    long = tokenizer("dog " * 500, truncation=True)["input_ids"]
    assert len(long) == config.max_position_embeddings
    assert long[-1] == tokenizer.eos_token_id


def test_punctuation_means_nothing(clip):
    plain = clip["tokenizer"]("a dog with long ears short legs")["input_ids"]
    marked = clip["tokenizer"]("A dog, with long ears, short legs!")["input_ids"]
    assert plain == marked


def test_padding_does_not_change_a_text(clip):
    short = "a black dog"
    padded = embed_texts(clip, [short, "a photo of a fluffy dog with a bushy tail"])
    assert np.allclose(embed_texts(clip, [short])[0], padded[0], atol=1e-5)


def test_known_words_are_all_words_and_hold_no_breed(clip):
    words = json.loads((MODEL_DIR / "words.json").read_text())
    assert words == sorted(set(words)) == [w for w in vocabulary() if w.isalpha()]
    unknown = clip["tokenizer"].unk_token_id
    ids = [clip["tokenizer"](w, add_special_tokens=False)["input_ids"] for w in words]
    assert all(len(i) == 1 and i[0] != unknown for i in ids)
    coats = {w for value in WORDS["coat"].values() for w in value}
    names = {part for breed in BREEDS for part in breed.split("_")} - coats
    assert not names & set(words)


def test_every_known_word_is_trained_and_every_caption_fits():
    met, longest = set(), 0
    for seed in range(3000):
        rng = Random(seed)
        every = {k: rng.choice(list(values)) for k, values in WORDS.items()}
        facts = {k: v for k, v in every.items() if rng.random() < 0.7} or every
        words = caption(facts, rng).replace("-", " - ").replace(",", " ").split()
        longest = max(longest, len(words))
        met.update(words)
    assert met == set(vocabulary())
    limit = json.loads((MODEL_DIR / "tokenizer_config.json").read_text())
    assert longest + 2 <= limit["model_max_length"]


def test_every_attribute_word_counts_at_every_position(clip):
    facts = {name: next(iter(values)) for name, values in WORDS.items()}
    texts = []
    for seed in range(3):
        base = caption(facts, Random(seed))
        words = base.split()
        texts.append(base)
        for place, word in enumerate(words):
            for other in _other_words(word):
                texts.append(" ".join([*words[:place], other, *words[place + 1 :]]))
    assert len(texts) > 60 and len(set(texts)) == len(texts)
    vectors = embed_texts(clip, texts)
    close = vectors @ vectors.T - np.eye(len(texts))
    assert close.max() < 0.99999


def _other_words(word):
    for values in WORDS.values():
        known = [w for ws in values.values() for w in ws]
        if word in known and " " not in word:
            mine = next(ws for ws in values.values() if word in ws)
            return [w[0] for w in values.values() if w is not mine]
    return []


def test_unknown_words_are_warned_of(caplog):
    encoder = ClipEncoder(str(MODEL_DIR), towers=("text",))
    encoder.encode_texts(["dogs on the beach, with a curly coat"])
    assert not caplog.messages
    encoder.encode_texts(["a purple dog on a skateboard"])
    assert "never seen the words: purple, skateboard." in caplog.text
    assert "golden" in caplog.text


# ---- what it was trained on --------------------------------------------------


def test_training_leaves_out_what_breeds_look_like(tools):
    trained = {tuple(c.values()) for c in tools["data"].training_combinations()}
    bred = set().union(*(breed_combinations(b) for b in TABLE.values()))
    assert not trained & bred
    every = {tuple(c.values()) for c in combinations()}
    assert trained | bred == every and len(trained) > 0.9 * len(every)
    for name, breed in TABLE.items():
        for seed in range(20):
            dog = of_breed(breed, Random(f"{name}{seed}"))
            assert possible(dog.values) and tuple(dog.values.values()) in bred
    for seed in range(300):
        values = tools["data"].balanced(trained, Random(seed))
        assert tuple(values.values()) in trained


def test_training_pixels_are_the_processors(tools, clip):
    image = Image.fromarray(
        render(_dog(tools, 1), random_framing(Random(1), 300), Random(1))
    )
    mine = tools["model"].build_processor()(image)["pixel_values"][0]
    theirs = clip["processor"](image)["pixel_values"][0]
    assert np.array_equal(mine, theirs)


def _dog(tools, seed):
    rng = Random(f"fresh/{seed}")
    return at_random(rng, dict(rng.choice(tools["data"].training_combinations())))


def test_parts_are_where_the_dog_is():
    rng = Random(5)
    dog = of_breed(TABLE["beagle"], rng)
    frame = random_framing(rng, 300)
    pixels, canvas = render_parts(dog, frame, Random(1))
    parts = part_map(canvas, min(frame.width, frame.height))
    assert parts.shape == pixels.shape[:2] and set(np.unique(parts)) <= set(range(6))
    tail = parts == PARTS.index("tail")
    dog.values["tail"] = "bushy"
    other = part_map(render_parts(dog, frame, Random(1))[1], min(parts.shape))
    assert 0 < tail.sum() < (other == PARTS.index("tail")).sum()


def test_what_no_pixel_shows_is_not_visible():
    values = {"coat": "red", "ears": "long", "legs": "long", "tail": "bushy"}
    parts = np.zeros((50, 50), np.uint8)
    parts[:20] = PARTS.index("body")
    assert visible(values | {"pose": "standing"}, parts) == ["coat", "pose"]
    parts[20:30] = PARTS.index("legs")
    parts[30:40] = PARTS.index("ears")
    seen = visible(values | {"pose": "standing"}, parts)
    assert seen == ["coat", "ears", "legs", "pose"]
    assert "legs" not in visible(values | {"pose": "lying"}, parts)


@pytest.fixture(scope="module")
def pool(tools, tmp_path_factory):
    return tools["data"].make_pool(tmp_path_factory.mktemp("pool"), "few", 1, 24, 1)


def test_captions_that_fit_several_pictures_are_positives_of_all(tools, pool):
    tokenizer = tools["model"].build_tokenizer()
    batches = tools["batches"].Batches(pool, tokenizer, 16, 8, seed=3)
    batch = batches.draw(5)
    assert batch.fits.diagonal().all() and batch.fits.sum() > 16
    assert batch.parts.shape == (16, 64, len(PARTS))
    assert abs(batch.parts.sum(-1) - 1).max() < 1e-4
    off = abs(batch.again - batch.pixels[:4]).mean((1, 2, 3))
    assert 0 < off.min() and off.max() < 12
    assert (batches.draw(5).pixels == batch.pixels).all()
    assert batches.draw(6).pixels.shape == batch.pixels.shape
    assert (batches.draw(6).pixels != batch.pixels).any()


def test_the_shortened_forward_pass_is_the_towers(tools):
    import torch

    model = tools["model"].build_model(seed=1).eval()
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, 112, 112))
    )
    with torch.inference_mode():
        tokens, pooled, gaze = tools["training"].look(model.vision_model, pixels)
        whole = model.vision_model(
            pixel_values=tools["model"].normalised(pixels), output_hidden_states=True
        )
    assert torch.allclose(pooled, whole.pooler_output, atol=1e-5)
    assert torch.allclose(tokens, whole.hidden_states[-2][:, 1:], atol=1e-5)
    assert gaze.shape == (2, 5, 64) and gaze.sum(-1).max() < 1


def test_a_run_continues_where_it_stopped_and_writes_a_model(tools, tmp_path):
    def run(steps):
        words = "--images 16 --held-out 8 --batch 8 --every 100 --threads 1"
        folders = f"--work {tmp_path / 'work'} --out {tmp_path / 'out'}"
        tools["main"].main(f"{words} {folders} --steps {steps}".split())
        return json.loads((tmp_path / "out" / "training_report.json").read_text())

    first = run(2)
    second = run(3)
    assert (first["steps"], second["steps"]) == (2, 3)
    assert second["loss"][:2] == first["loss"][:2]
    encoder = ClipEncoder(str(tmp_path / "out"), towers=("image", "text"))
    assert encoder.encode_texts(["a red dog"]).shape == (1, encoder.dimension)


# ---- what it has learned -----------------------------------------------------


@pytest.mark.parametrize("key", ["coat", "scene", "ears", "tail"])
def test_zero_shot_by_words_is_well_above_chance(clip, fresh, key):
    images, rows = fresh
    values = list(WORDS[key])
    texts = embed_texts(clip, [prompt(key, value) for value in values])
    guess = (images @ texts.T).argmax(1)
    hits = [
        values[g] == row[key]
        for g, row in zip(guess, rows, strict=True)
        if key in row["seen"]
    ]
    assert len(hits) > 50 and np.mean(hits) > 0.7


@pytest.fixture(scope="module")
def fresh(tools, clip):
    images, rows = [], []
    for seed in range(80):
        rng = Random(f"framing/{seed}")
        dog, frame = _dog(tools, seed), random_framing(rng, 240)
        pixels, canvas = render_parts(dog, frame, rng)
        images.append(Image.fromarray(pixels))
        row = {**dog.values, "pose": frame.pose, "scene": frame.scene}
        rows.append({**row, "seen": visible(row, part_map(canvas, 56))})
    return embed_images(clip, images), rows
