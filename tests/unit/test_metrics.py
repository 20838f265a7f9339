"""The figures, against cases worked by hand."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import classification_report

from doggos_helpers.data.manifest import read_attributes
from doggos_helpers.errors import DataError
from doggos_helpers.evaluate.metrics import Tally, accuracy_by
from doggos_helpers.settings import Settings

CLASSES = ["a", "b", "c", "d"]  # of "d" there are no test rows
ACTUAL = ["a", "a", "a", "b", "b", "c"]
PREDICTED = ["a", "a", "b", "b", "d", "a"]


def probabilities(predicted, classes=CLASSES):
    """Give the predicted class 0.7 and the others what falls by their position."""
    rest = np.linspace(0.3, 0.1, len(classes))
    table = np.tile(rest, (len(predicted), 1))
    table[range(len(predicted)), np.searchsorted(classes, predicted)] = 0.7
    return table / table.sum(axis=1, keepdims=True)


def measure(actual, predicted, table, classes):
    """Count in two portions, as batches come."""
    tally, half = Tally(classes), len(actual) // 2
    for part in (slice(None, half), slice(half, None)):
        tally.add(actual[part], predicted[part], np.asarray(table)[part])
    return tally.metrics()


def test_a_case_worked_by_hand_with_an_absent_class():
    got = measure(ACTUAL, PREDICTED, probabilities(PREDICTED), CLASSES)
    assert got["rows"] == 6 and got["top1"] == pytest.approx(3 / 6)
    assert got["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0] * 4]
    rows = {row["class"]: row for row in got["per_class"]}
    assert list(rows) == CLASSES
    assert [rows[c]["support"] for c in CLASSES] == [3, 2, 1, 0]
    assert [rows[c]["recall"] for c in CLASSES] == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert [rows[c]["precision"] for c in CLASSES] == pytest.approx(
        [2 / 3, 1 / 2, 0, 0]
    )
    # Over the three classes that have rows, not over four.
    assert got["macro"]["recall"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert got["macro"]["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert got["chance"] == {"uniform": 0.25, "majority": 0.5}


def test_precision_and_recall_are_not_the_same_figure():
    got = measure(
        ["a", "a", "b", "c"], ["a", "a", "a", "c"], np.eye(3)[[0, 0, 0, 2]], "abc"
    )
    assert got["macro"]["precision"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert got["macro"]["recall"] == pytest.approx((1 + 0 + 1) / 3)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_top5_of_five_classes_or_fewer_is_always_right(count):
    classes = list("abcde")[:count]
    actual = classes[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = measure(
            actual, [classes[0]] * count, probabilities(["a"] * count, classes), classes
        )
    assert got["top5"] == 1 and got["top1"] == pytest.approx(1 / count)


def test_top5_of_seven_classes_by_hand():
    classes = list("abcdefg")
    # Predicted a; then the probabilities fall from b to g: the five are a to e.
    table = probabilities(["a"] * 7, classes)
    got = measure(classes, ["a"] * 7, table, classes)
    assert got["top5"] == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("actual", "message"), [([], "no rows"), (["a", "z"], "outside the label set")]
)
def test_rows_that_cannot_be_measured_are_refused(actual, message):
    with pytest.raises(DataError, match=message):
        measure(actual, actual, np.ones((len(actual), 4)), CLASSES)


def test_the_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    actual, predicted = (random.choice(CLASSES[:3], 500).tolist() for _ in range(2))
    got = measure(actual, predicted, probabilities(predicted), CLASSES)
    expected = classification_report(
        actual, predicted, labels=CLASSES, zero_division=0, output_dict=True
    )
    for row in got["per_class"]:
        theirs = expected[row["class"]]
        assert row["f1"] == pytest.approx(theirs["f1-score"])
        for key in ("precision", "recall", "support"):
            assert row[key] == pytest.approx(theirs[key])
    assert got["top1"] == pytest.approx(np.mean(np.array(actual) == predicted))


def test_slices_worked_by_hand():
    predictions = pd.DataFrame(
        {"path": list("123456"), "class": ACTUAL, "predicted": PREDICTED}
    )
    attributes = pd.DataFrame(
        {
            "path": list("6543217"),  # another order, and one that is no test image
            "scene": ["sea", "sea", "snow", "snow", "snow", "snow", "sea"],
            "dogs": [1, 1, 1, 2, 2, 2, 2],
        }
    )
    slices = accuracy_by(predictions, attributes, ["scene", "dogs"])
    assert slices.values.tolist() == [
        ["scene", "sea", 2, 0.0],
        ["scene", "snow", 4, 0.75],
        ["dogs", 1, 3, pytest.approx(1 / 3)],
        ["dogs", 2, 3, pytest.approx(2 / 3)],
    ]
    assert accuracy_by(predictions, attributes[:0], []).empty


def test_attributes_are_read_where_there_are_any(tmp_path):
    settings = Settings(dataset=str(tmp_path))
    assert read_attributes(settings).columns.tolist() == ["path"]
    pd.DataFrame({"path": ["a"], "pose": ["sitting"]}).to_parquet(
        tmp_path / "attributes.parquet"
    )
    assert read_attributes(settings).pose.tolist() == ["sitting"]
    (tmp_path / "attributes.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="can't read the attributes"):
        read_attributes(settings)
