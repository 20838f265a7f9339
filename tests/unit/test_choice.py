"""Which candidate is registered: the network, if it is better by more than chance."""

import numpy as np
import pytest
import torch

from doggos_helpers.embed.table import read_contents, read_embeddings
from doggos_helpers.settings import Settings
from doggos_helpers.train.classifier import Classifier
from doggos_helpers.train.shard import Shard
from doggos_helpers.train.stage import choose
from tests.synthetic import CLASSES, write_embeddings


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    chosen = Settings(storage=str(tmp_path_factory.mktemp("choice")))
    write_embeddings(chosen, val=200, noise=0.4)
    return chosen


def probe(settings, sharpness, spoilt=0, noise=0.0, seed=0):
    """A linear probe of the class means, more or less sure; some classes unlearnt."""
    torch.manual_seed(seed)
    rows = read_embeddings(settings, "train")
    means = [rows.vectors[rows.classes == name].mean(axis=0) for name in CLASSES]
    model = Classifier(rows.vectors.shape[1], 0, len(CLASSES))
    with torch.no_grad():
        model.layers[0].weight.copy_(sharpness * torch.tensor(np.stack(means)))
        model.layers[0].weight[:spoilt] = 0
        model.layers[0].weight += noise * torch.randn_like(model.layers[0].weight)
        model.layers[0].bias.zero_()
    return model


@pytest.mark.parametrize(
    ("linear", "network", "chosen"),
    [
        ((1, 0), (4, 0), "network"),  # the same, but surer where it is right
        ((4, 0, 0.5, 1), (4, 0, 0.5, 2), "linear"),  # each better on some rows: a tie
        ((4, 0), (4, 1), "linear"),
        ((4, 0), None, "linear"),
    ],
)
def test_the_simpler_one_wins_a_tie(settings, linear, network, chosen):
    models = {"linear": probe(settings, *linear)}
    if network:
        models["network"] = probe(settings, *network)
    rows = Shard(read_contents(settings), "val", list(CLASSES))
    name, why = choose(models, rows)
    assert name == chosen
    assert ("maybe by chance" in why) == (chosen == "linear" and network is not None)


def test_the_interval_is_that_of_the_differences_row_by_row(settings):
    models = {"linear": probe(settings, 2), "network": probe(settings, 3)}
    rows = read_embeddings(settings, "val")
    labels = np.searchsorted(CLASSES, rows.classes)
    losses = []
    for model in models.values():
        with torch.no_grad():
            shares = model(torch.tensor(rows.vectors)).softmax(dim=1).numpy()
        losses.append(-np.log(shares[np.arange(len(labels)), labels]))
    gains = losses[0] - losses[1]
    noise = 1.96 * gains.std() / np.sqrt(len(gains))
    shard = Shard(read_contents(settings), "val", list(CLASSES), most_rows=40)
    _, why = choose(models, shard)
    assert f"by {gains.mean():.3f} ± {noise:.3f}" in why
