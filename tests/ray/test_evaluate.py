"""Batch prediction on Ray, with a classifier saved and registered by the test."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier

from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import DataError, ModelError, StorageError
from doggos_helpers.evaluate.likeness import NEAREST
from doggos_helpers.evaluate.prediction import IN_VAL, read_predictions
from doggos_helpers.evaluate.stage import check, evaluate
from doggos_helpers.train import registry, tracking
from doggos_helpers.train.classifier import (
    Classifier,
    check_fits,
    load,
    predict_probabilities,
    save,
)
from tests.synthetic import CLASSES, write_embeddings
from tools import check_metrics


@pytest.fixture(scope="module")
def settings(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    chosen = {"storage": str(folder), "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    chosen = cluster[0].model_copy(update=chosen)
    write_embeddings(chosen, noise=0.2)
    return chosen


def nearest_centre(rows, classes):
    """Make a classifier of class means: what training would find, but at once."""
    means = np.stack([rows.vectors[rows.classes == c].mean(axis=0) for c in classes])
    width = means.shape[1]
    model = Classifier(width, 2 * width, len(classes))
    hidden, out = model.layers[0], model.layers[3]
    with torch.no_grad():  # relu(x) - relu(-x) is x
        eye = torch.eye(width)
        hidden.weight.copy_(torch.cat([eye, -eye]))
        hidden.bias.zero_()
        scores = torch.tensor(means, dtype=torch.float32)
        out.weight.copy_(torch.cat([scores, -scores], dim=1))
        out.bias.zero_()
    return model


def make_champion(settings, classes=CLASSES, width=None, good=True):
    """Register a network, and a linear probe that has learnt nothing beside it."""
    model = nearest_centre(read_embeddings(settings, "train"), CLASSES)
    if classes != CLASSES or width or not good:
        torch.manual_seed(0)
        model = Classifier(width or model.dimension, 8, len(classes))
    about = {"fingerprint": "synthetic", "encoder": "synthetic"}
    about |= {"val_loss": 0.1 if good else 0.9, "epoch": 1}
    folders = [settings.training_dir / "made" / name for name in ("network", "linear")]
    save(model, folders[0], classes, **about)
    save(Classifier(model.dimension, 0, len(classes)), folders[1], classes, **about)
    with tracking.tracked_run(settings) as run_id:
        registry.register(settings, run_id, folders[0], folders[1:])


@pytest.fixture(scope="module")
def run(cluster, settings):
    """An evaluation of a good champion, before which there was a bad one."""
    make_champion(settings, good=False)
    make_champion(settings)
    return evaluate(check(settings), cluster[1])


def test_every_test_image_gets_one_prediction(run, settings):
    test = read_embeddings(settings, "test")
    predictions = read_predictions(settings)
    assert predictions["path"].tolist() == test.paths.tolist()
    assert predictions["class"].tolist() == test.classes.tolist()
    assert read_predictions(settings, IN_VAL)["path"].is_unique
    assert len(read_predictions(settings, IN_VAL)) == 33
    assert run["counts"]["test"] == run["counts"]["predicted"] == 41
    assert sum(run["nodes"].values()) == 41


def test_the_predictions_are_those_of_the_champion(run, settings):
    model, classes = load(registry.champion(settings).folder)
    test = read_embeddings(settings, "test")
    expected = predict_probabilities(model, test.vectors)
    predictions = read_predictions(settings)
    got = np.stack(predictions["probabilities"].to_list())
    np.testing.assert_allclose(got, expected, atol=1e-6)
    best = [classes[i] for i in expected.argmax(axis=1)]
    assert predictions["predicted"].tolist() == best
    np.testing.assert_allclose(predictions["probability"], expected.max(1), atol=1e-6)


def test_the_figures_agree_with_the_predictions(run, settings):
    predictions = read_predictions(settings)
    metrics = json.loads((settings.evaluation_dir / "metrics.json").read_text())
    right = predictions["class"] == predictions["predicted"]
    assert metrics["top1"] == run["top1"] == pytest.approx(right.mean())
    assert run["counts"]["correct"] == right.sum()
    assert metrics["classes"] == list(CLASSES)
    assert np.sum(metrics["confusion"]) == 41
    assert np.trace(metrics["confusion"]) == right.sum()
    assert run["top1"] > 3 * run["chance"]["uniform"]
    assert run["top5"] >= run["top1"]


def test_it_is_compared_with_its_rivals(run, settings):
    predictions = read_predictions(settings)
    right = predictions["class"] == predictions["predicted"]
    names = ["nearest neighbours", "linear", "previous champion"]
    assert list(run["rivals"]) == names
    for name, rival in run["rivals"].items():
        theirs = predictions[name] == predictions["class"]
        assert rival["top1"] == pytest.approx(theirs.mean())
        alone = [(right & ~theirs).sum(), (theirs & ~right).sum()]
        p = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1
        assert rival["p"] == pytest.approx(p)
    assert run["rivals"]["previous champion"]["p"] < 1e-4, "chance, against this one"
    assert run["rivals"]["nearest neighbours"]["top1"] > 0.8


def test_nearest_neighbours_are_those_of_scikit_learn(run, settings):
    rows = read_embeddings(settings)
    others = rows.select(rows.splits != "test")
    model = KNeighborsClassifier(NEAREST, metric="cosine", algorithm="brute")
    model.fit(others.vectors, others.classes)
    test = rows.select(rows.splits == "test")
    predictions = read_predictions(settings)
    expected = model.predict(test.vectors)
    assert (predictions["nearest neighbours"].to_numpy() == expected).all()


def test_scikit_learn_finds_the_same_figures(run, settings, capsys):
    assert check_metrics.main([str(settings.evaluation_dir)]) == 0, capsys.readouterr()
    stored = settings.evaluation_dir / "metrics.json"
    metrics = json.loads(stored.read_text())
    spoilt = metrics | {"weighted": metrics["weighted"] | {"f1": 0.5}}
    found = check_metrics.differences(metrics, spoilt)
    assert [line.partition(":")[0] for line in found] == ["/weighted/f1"]


def test_mlflow_has_the_figures_at_the_run_of_the_champion(run, settings):
    found = registry.champion(settings)
    client = tracking.open_tracking(settings.tracking)
    logged = client.get_run(found.run_id).data.metrics
    assert logged["test/top1"] == run["top1"]
    files = [f.path for f in client.list_artifacts(found.run_id, "evaluation")]
    assert files == ["evaluation/metrics.json"]


def test_a_champion_of_other_clip_weights_is_refused(run, settings):
    folder = registry.champion(settings).folder
    with pytest.raises(ModelError, match="other CLIP weights") as caught:
        check_fits(folder, "new weights")
    assert caught.value.where == str(folder)
    check_fits(folder, "synthetic")


def test_the_artefacts_are_parquet_and_json(run, settings):
    files = sorted(p.name for p in settings.evaluation_dir.iterdir())
    assert files == ["metrics.json", "predictions.parquet", "run.json"]
    assert run["version"] == 2 and run["trained_on"] == run["fingerprint"]
    stored = pd.read_parquet(settings.evaluation_dir / "predictions.parquet")
    assert "embedding" not in stored


def other_storage(settings, tmp_path, **sizes):
    """Another pair, so that its champion is no concern of the other tests."""
    (tmp_path / "model").mkdir()
    changed = {"storage": str(tmp_path), "model": str(tmp_path / "model")}
    other = settings.model_copy(update=changed)
    write_embeddings(other, **sizes)
    return other


@pytest.mark.parametrize(
    ("champion", "message"),
    [
        ({"classes": CLASSES[:5]}, "doesn't know the classes samoyed"),
        ({"width": 12}, "takes 12 numbers, the embeddings have 16"),
    ],
)
def test_a_champion_that_does_not_fit_is_refused(
    cluster, settings, tmp_path, champion, message
):
    other = other_storage(settings, tmp_path)
    make_champion(other, **champion)
    with pytest.raises(ModelError, match=message):
        evaluate(check(other), cluster[1])
    assert not other.evaluation_dir.exists()


def test_a_test_split_without_rows_is_refused(cluster, settings, tmp_path):
    other = other_storage(settings, tmp_path, test=0)
    make_champion(other)
    with pytest.raises(DataError, match="no embeddings of the split test"):
        evaluate(check(other), cluster[1])


def test_without_a_champion_the_notebook_is_named(cluster, settings, tmp_path):
    other = other_storage(settings, tmp_path)
    with pytest.raises(StorageError, match="04_training"):
        evaluate(check(other), cluster[1])
    with pytest.raises(StorageError, match="05_evaluation"):
        read_predictions(other)
