import hashlib
import importlib.util
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from doggos_helpers.sample import BREEDS, MODEL_DIR, dataset, write_dataset
from doggos_helpers.sample.__main__ import main
from doggos_helpers.sample.breeds import TABLE
from doggos_helpers.sample.captions import WORDS, caption, prompt, vocabulary
from doggos_helpers.sample.picture import random_framing, render
from doggos_helpers.sample.traits import (
    ATTRIBUTES,
    at_random,
    breed_combinations,
    combinations,
    of_breed,
    possible,
)

ROOT = Path(__file__).parents[2]
PER_BREED = 7


@pytest.fixture(scope="module")
def trainer():
    path = ROOT / "tools" / "train_sample_clip.py"
    spec = importlib.util.spec_from_file_location("train_sample_clip", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "drawn"
    assert write_dataset(out, PER_BREED, seed=3, workers=2) == PER_BREED * len(BREEDS)
    return out


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


def files(out):
    return sorted(p for p in out.rglob("*") if p.is_file() and p.suffix != ".parquet")


# ---- the pictures ------------------------------------------------------------


def test_import_draws_and_loads_nothing():
    code = (
        "import sys, doggos_helpers.sample;"
        "print({'torch', 'PIL', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr


def test_breeds_are_sorted_and_each_has_odds_for_known_values():
    assert list(BREEDS) == sorted(TABLE) == sorted(set(BREEDS))
    for breed in TABLE.values():
        for name, values in ATTRIBUTES.items():
            odds = getattr(breed, name)
            assert set(odds) <= set(values) and abs(sum(odds.values()) - 1) < 1e-9


def test_related_breeds_share_combinations_in_part():
    retriever = TABLE["labrador"].coat.keys() & TABLE["golden_retriever"].coat.keys()
    assert "golden" in retriever
    beagle, basset = TABLE["beagle"], TABLE["basset_hound"]
    assert beagle.pattern.keys() == basset.pattern.keys()


def test_layout_counts_and_splits(drawn):
    assert sorted(p.name for p in drawn.iterdir()) == [
        "attributes.parquet",
        "test",
        "train",
        "val",
    ]
    for split in dataset.SPLITS:
        assert sorted(p.name for p in (drawn / split).iterdir()) == list(BREEDS)
    assert len(files(drawn)) == PER_BREED * len(BREEDS)


@pytest.mark.parametrize("count", [20, 60, 1000])
def test_splits_are_70_15_15(count):
    share = Counter(dataset.split_of(i) for i in range(count))
    assert share["val"] == share["test"] == 0.15 * count


def test_the_table_has_a_row_for_each_image(drawn):
    table = pq.read_table(drawn / "attributes.parquet").to_pylist()
    assert [r["path"] for r in table] == [
        p.relative_to(drawn).as_posix() for p in files(drawn)
    ]
    for row in table:
        assert row["path"].split("/")[:2] == [row["split"], row["breed"]]
        odds = TABLE[row["breed"]]
        assert all(row[name] in getattr(odds, name) for name in ATTRIBUTES)
        assert (drawn / row["path"]).stat().st_size == row["bytes"]
    assert len({r["scene"] for r in table}) == 5
    assert len({r["pose"] for r in table}) == 4


def test_sizes_formats_and_orientations(drawn):
    rows = pq.read_table(drawn / "attributes.parquet").to_pylist()
    table = {row["path"]: row for row in rows}
    for path, row in table.items():
        with Image.open(drawn / path) as image:
            image.load()
            assert 300 <= max(image.size) <= 800
            assert image.getexif().get(0x0112, 1) == row["orientation"]
            turned = row["orientation"] in (6, 8)
            size = image.size[::-1] if turned else image.size
            assert size == (row["width"], row["height"])
            assert (
                image.format
                == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[path.rsplit(".", 1)[1]]
            )
    kinds = Counter(path.rsplit(".", 1)[1] for path in table)
    assert set(kinds) == {"jpg", "png", "webp"} and kinds["jpg"] > 0.8 * len(table)
    assert sum(r["orientation"] != 1 for r in table.values()) >= 3
    assert np.mean([r["bytes"] for r in table.values()]) < 60_000


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_undoes_the_turn(orientation):
    from PIL import ImageOps

    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:60, :80] = 255
    for seed in range(2000):
        data, suffix, found, _ = dataset.encode(pixels, Random(seed))
        if suffix == "jpg" and found == orientation:
            break
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert image.size == (400, 300)
    back = np.asarray(image)
    assert back[:40, :60].mean() > 240 > 10 > back[100:].mean()


def test_same_seed_same_bytes_whatever_the_workers(drawn, tmp_path):
    write_dataset(tmp_path / "again", PER_BREED, seed=3, workers=1)

    def digests(out):
        return {
            p.relative_to(out): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files(out)
        }

    assert digests(drawn) == digests(tmp_path / "again")
    write_dataset(tmp_path / "other", 1, seed=4, workers=1)
    other = digests(tmp_path / "other")
    assert not set(other.values()) & set(digests(drawn).values())


def test_the_first_images_stay_when_more_are_drawn(drawn, tmp_path):
    write_dataset(tmp_path / "few", 1, seed=3, workers=1)
    for path in files(tmp_path / "few"):
        same = drawn / path.relative_to(tmp_path / "few")
        assert path.read_bytes() == same.read_bytes()


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    real, drawn = dataset._draw_one, []

    def interrupted(*args):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(args)
        return real(*args)

    monkeypatch.setattr(dataset, "_draw_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "half", 1, workers=1)
    assert len(drawn) == 5 and list(tmp_path.iterdir()) == []


def test_another_process_was_faster(tmp_path, monkeypatch):
    out, real = tmp_path / "out", dataset._write_table

    def slow(path, rows, seed):
        (out / "train").mkdir(parents=True)
        real(path, rows, seed)

    monkeypatch.setattr(dataset, "_write_table", slow)
    with pytest.raises(FileExistsError, match="was made by another process"):
        write_dataset(out, 1, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert write_dataset(tmp_path / "out", 1, workers=1) == len(BREEDS)


def test_the_dog_is_in_the_picture_and_attributes_show():
    rng = Random(0)
    dog = of_breed(TABLE["dalmatian"], rng)
    frame = random_framing(rng, 300)
    with_spots = render(dog, frame, Random(1)).astype(int)
    dog.values["pattern"] = "plain"
    assert (abs(render(dog, frame, Random(1)) - with_spots).max(-1) > 60).sum() > 50


def test_command_prints_rate_and_size(tmp_path, capsys):
    out = tmp_path / "cli"
    assert main(["--out", str(out), "--images-per-breed", "1", "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert f"{len(BREEDS)} images in" in text and "a second" in text and "MB" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images-per-breed", "0"], "images per breed is 0: give 1 to 1,000,000"),
        (["--workers", "-1"], "workers is -1: give 0 (one a core) or more"),
        (["--images-per-breed", "many"], "invalid int value: 'many'"),
        ([], "exists already: remove it or name another folder"),
    ],
)
def test_command_refuses_wrong_arguments(tmp_path, capsys, arguments, message):
    out = tmp_path / "taken"
    if not arguments:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    try:
        code = main(["--out", str(out), *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and "error" in last
    assert not out.exists() or [p.name for p in out.iterdir()] == ["mine.txt"]


# ---- the model ---------------------------------------------------------------


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


def test_training_leaves_out_what_breeds_look_like(trainer):
    trained = {tuple(c.values()) for c in trainer.training_combinations()}
    bred = set().union(*(breed_combinations(b) for b in TABLE.values()))
    assert not trained & bred
    every = {tuple(c.values()) for c in combinations()}
    assert trained | bred == every and len(trained) > 0.9 * len(every)
    for name, breed in TABLE.items():
        for seed in range(20):
            dog = of_breed(breed, Random(f"{name}{seed}"))
            assert possible(dog.values) and tuple(dog.values.values()) in bred


def test_training_pixels_are_the_processors(trainer, clip):
    image = Image.fromarray(
        render(_dog(trainer, 1), random_framing(Random(1), 300), Random(1))
    )
    mine = trainer.build_processor()(image)["pixel_values"][0]
    theirs = clip["processor"](image)["pixel_values"][0]
    assert np.array_equal(mine, theirs)


def _dog(trainer, seed):
    rng = Random(f"fresh/{seed}")
    return at_random(rng, dict(rng.choice(trainer.training_combinations())))


@pytest.mark.parametrize("key", ["coat", "scene"])
def test_zero_shot_by_words_is_well_above_chance(trainer, clip, fresh, key):
    images, rows = fresh
    values = list(WORDS[key])
    texts = embed_texts(clip, [prompt(key, value) for value in values])
    guess = (images @ texts.T).argmax(1)
    truth = [values.index(row[key]) for row in rows]
    assert np.mean(guess == truth) > 0.7


@pytest.fixture(scope="module")
def fresh(trainer, clip):
    images, rows = [], []
    for seed in range(80):
        rng = Random(f"framing/{seed}")
        dog, frame = _dog(trainer, seed), random_framing(rng, 240)
        images.append(Image.fromarray(render(dog, frame, rng)))
        rows.append({**dog.values, "scene": frame.scene})
    return embed_images(clip, images), rows


def test_report_says_how_it_was_trained():
    report = json.loads((MODEL_DIR / "training_report.json").read_text())
    assert report["steps"] > 0 and report["minutes"] > 0 and report["loss"]
    assert set(report["zero_shot"]) == set(WORDS)
