"""The epochs, in plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

from doggos_helpers.settings import Settings
from doggos_helpers.train.loop import finished, run_epoch


def batches(*sizes):
    random = torch.Generator().manual_seed(0)
    for size in sizes:
        label = torch.randint(3, (size,), generator=random)
        yield {
            "embedding": nn.functional.one_hot(label, 4).float(),
            "label": label,
            "rows": size,
        }


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))


def loss_of(model, some):
    loss, _, rows = run_epoch(model, some)
    return loss / rows


def test_sums_are_over_rows_not_over_batches(model):
    loss, correct, rows = run_epoch(model, batches(7, 2, 1))
    data = list(batches(7, 2, 1))
    x, y = (torch.cat([b[k] for b in data]) for k in ("embedding", "label"))
    logits = model.eval()(x)
    mean = nn.functional.cross_entropy(logits, y).item()
    assert rows == 10 and correct == (logits.argmax(1) == y).sum()
    assert loss / rows == pytest.approx(mean)


def test_measuring_changes_nothing(model):
    before = copy.deepcopy(model.state_dict())
    assert run_epoch(model, batches(8)) == run_epoch(model, batches(8))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_training_learns(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = loss_of(model, batches(16, 16, 1))
    for _ in range(20):
        *_, rows = run_epoch(model, batches(16, 16, 1), optimizer)
    assert rows == 33 and loss_of(model, batches(16, 16, 1)) < before / 2


@pytest.mark.parametrize(("clip_norm", "moves"), [(0, 1), (1e-3, 1e-3), (1e3, 1)])
def test_a_gradient_is_no_longer_than_it_may_be(clip_norm, moves):
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(100 * torch.eye(3, 4).roll(1, 0))  # sure, and wrong
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    run_epoch(model, batches(8), optimizer, clip_norm)
    moved = (model.weight - before).norm().item()
    assert moved <= moves * 2 and (moved > 0.3 or moves < 1)


def test_no_batches_are_no_rows(model):
    assert run_epoch(model, []) == [0, 0, 0]


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([], 2, False),
        ([3, 2, 1], 2, False),
        ([3, 1, 2], 2, False),
        ([3, 1, 2, 2], 2, True),
        ([3, 1, 2, 2], 0, False),
        ([3, 1, 2, 2, 2], 0, True),  # five epochs are all
    ],
)
def test_a_training_ends_with_its_epochs_or_when_nothing_gets_better(
    losses, patience, over
):
    settings = Settings(epochs=5, patience=patience)
    assert finished([{"val_loss": loss} for loss in losses], settings) is over
