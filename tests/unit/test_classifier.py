"""The classifier: what it saves is what it loads, and mixed-up files are refused."""

import json

import numpy as np
import pytest
import torch

from doggos_helpers.errors import ModelError
from doggos_helpers.train import classifier
from doggos_helpers.train.classifier import (
    Classifier,
    check_fits,
    load,
    predict_probabilities,
    save,
)

CLASSES = ["akita", "beagle", "corgi"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(8, 16, len(CLASSES), dropout=0.5)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


@pytest.mark.parametrize("hidden_units", [0, 16])
def test_what_is_saved_is_loaded(hidden_units, vectors, tmp_path):
    model = Classifier(8, hidden_units, len(CLASSES), dropout=0.5)
    save(model, tmp_path / "new" / "folder", CLASSES, fingerprint="f", val_loss=0.5)
    again, classes = load(tmp_path / "new" / "folder")
    assert classes == CLASSES
    model.eval()
    expected = predict_probabilities(model, vectors)
    np.testing.assert_array_equal(predict_probabilities(again, vectors), expected)
    assert classifier.describe(tmp_path / "new" / "folder")["fingerprint"] == "f"


@pytest.mark.parametrize("hidden_units", [0, 16])
def test_probabilities_are_those_of_the_module(hidden_units, vectors):
    model = Classifier(8, hidden_units, len(CLASSES), dropout=0.5).eval()
    model.standardise(vectors.mean(0), vectors.std(0))
    with torch.inference_mode():
        expected = model(torch.tensor(vectors)).softmax(dim=1).numpy()
    got = predict_probabilities(model, vectors)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == np.float32


def test_the_files_hold_no_pickle(model, tmp_path):
    save(model, tmp_path, CLASSES)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_a_save_that_fails_leaves_what_was_there(model, tmp_path):
    save(model, tmp_path, CLASSES)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with torch.no_grad():
        model.mean += 1
    with pytest.raises(TypeError):
        save(model, tmp_path, CLASSES, note=object())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_probabilities_are_float32_rows_that_sum_to_one(model, vectors):
    got = predict_probabilities(model.eval(), vectors)
    assert got.dtype == np.float32 and got.shape == (5, 3)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
    assert predict_probabilities(model, vectors[:0]).shape == (0, 3)


def test_a_loaded_model_drops_nothing_out(model, vectors, tmp_path):
    save(model, tmp_path, CLASSES)
    again, _ = load(tmp_path)
    first = predict_probabilities(again, vectors)
    np.testing.assert_array_equal(predict_probabilities(again, vectors), first)


def test_one_row_can_be_trained_on(model):
    loss = model.train()(torch.ones(1, 8)).square().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": CLASSES[:2]}, "not of a classifier of 8 inputs and 2 labels"),
        ({"dimension": 9}, "not of a classifier of 9 inputs and 3 labels"),
        ({"hidden_units": 0}, "not of a classifier of 8 inputs and 3 labels"),
        ({"classes": CLASSES[::-1]}, "not sorted"),
        ({"classes": ["akita", "akita", "corgi"]}, "not unique"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, tmp_path, change, message):
    about = save(model, tmp_path, CLASSES)
    (tmp_path / classifier.LABELS).write_text(json.dumps(about | change))
    with pytest.raises(ModelError, match=message) as error:
        load(tmp_path)
    assert error.value.exit_code == 4 and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", [classifier.LABELS, classifier.WEIGHTS])
@pytest.mark.parametrize("damage", ["", "x", "[]"])
def test_an_unreadable_file_is_named_with_the_fix(model, tmp_path, name, damage):
    save(model, tmp_path, CLASSES)
    (tmp_path / name).unlink()
    if damage:
        (tmp_path / name).write_text(damage)
    with pytest.raises(ModelError, match="04_training") as error:
        load(tmp_path)
    assert name in str(error.value)


def test_weights_that_are_not_numbers_are_refused(model, tmp_path):
    with torch.no_grad():
        model.layers[0].weight[0, 0] = float("nan")
    save(model, tmp_path, CLASSES)
    with pytest.raises(ModelError, match="some of the weights are not numbers"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("encoder", "dimension", "classes", "message"),
    [
        ("e", 8, [*CLASSES, "zebra"], "doesn't know the classes zebra"),
        ("e", 5, CLASSES, "takes 8 numbers, the embeddings have 5"),
        ("f", 8, CLASSES, "other CLIP weights"),
    ],
)
def test_a_champion_of_other_embeddings_is_refused(
    model, tmp_path, encoder, dimension, classes, message
):
    save(model, tmp_path, CLASSES, encoder="e")
    with pytest.raises(ModelError, match=message) as error:
        check_fits(tmp_path, encoder, dimension, classes)
    assert "04_training" in str(error.value)


def test_a_champion_that_knows_more_classes_is_accepted(model, tmp_path):
    save(model, tmp_path, CLASSES, encoder="e")
    assert check_fits(tmp_path, "e", 8, CLASSES[:2])["classes"] == CLASSES
