"""The epochs, in plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

from doggos_helpers.train.loop import train_epoch, validate


def batches(*sizes):
    random = torch.Generator().manual_seed(0)
    for size in sizes:
        label = torch.randint(3, (size,), generator=random)
        yield {"embedding": nn.functional.one_hot(label, 4).float(), "label": label}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))


def test_sums_are_over_rows_not_over_batches(model):
    loss, correct, rows = validate(model, batches(7, 2, 1))
    data = list(batches(7, 2, 1))
    x, y = (torch.cat([b[k] for b in data]) for k in ("embedding", "label"))
    logits = model.eval()(x)
    assert rows == 10 and correct == (logits.argmax(1) == y).sum()
    assert loss / rows == pytest.approx(nn.functional.cross_entropy(logits, y).item())


def test_validation_changes_nothing(model):
    before = copy.deepcopy(model.state_dict())
    assert validate(model, batches(8)) == validate(model, batches(8))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_training_learns(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = validate(model, batches(16, 16, 1))
    for _ in range(20):
        _, _, rows = train_epoch(model, batches(16, 16, 1), optimizer)
    after = validate(model, batches(16, 16, 1))
    assert rows == 33 and after[0] < before[0] / 2 and after[1] == 33


def test_no_batches_are_no_rows(model):
    assert validate(model, []) == [0, 0, 0]
