"""The figures, against cases worked by hand."""

import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import binomtest
from sklearn.metrics import classification_report

from doggos_helpers.data.manifest import read_attributes
from doggos_helpers.errors import DataError
from doggos_helpers.evaluate.metrics import Tally, accuracy_by, interval
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


def measure(actual, predicted, table, classes, **rivals):
    """Count in three portions, as batches come; one of them is empty."""
    tally, half = Tally(classes, list(rivals)), len(actual) // 2
    table = np.asarray(table, np.float32)
    for part in (slice(None, half), slice(half, half), slice(half, None)):
        columns = {"class": actual[part], "predicted": predicted[part]}
        columns |= {name: said[part] for name, said in rivals.items()}
        columns = {name: pa.array(list(c), pa.string()) for name, c in columns.items()}
        columns["probability"] = table[part].max(axis=1)
        columns["probabilities"] = pa.array(list(table[part]), pa.list_(pa.float32()))
        tally.add(pa.table(columns))
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


def test_bounds_and_weighted_means_by_hand():
    got = measure(ACTUAL, PREDICTED, probabilities(PREDICTED), CLASSES)
    # Wilson's bounds of 3 in 6, from the formula.
    z, n = 1.959964, 6
    centre, half = 0.5, z * np.sqrt(n / 4 + z**2 / 4) / (n + z**2)
    assert got["interval"] == pytest.approx([centre - half, centre + half], abs=1e-5)
    assert interval(6, 6)[1] == 1 and 0.5 < interval(6, 6)[0] < 1
    assert got["weighted"]["recall"] == pytest.approx(got["top1"])
    weighted = (3 * 2 / 3 + 2 * 1 / 2 + 0) / 6
    assert got["weighted"]["f1"] == pytest.approx(weighted)


def test_yes_or_no_questions_added_up_look_better_than_they_are():
    got = measure(ACTUAL, PREDICTED, probabilities(PREDICTED), CLASSES)
    questions = [
        (actual == name) == (predicted == name)
        for actual, predicted in zip(ACTUAL, PREDICTED, strict=True)
        for name in CLASSES
    ]
    assert got["one_vs_rest"] == pytest.approx(np.mean(questions))
    assert got["one_vs_rest"] > got["top1"] + 0.2


def test_a_rival_is_compared_by_what_only_one_of_the_two_got_right():
    # The champion is right on 0, 1 and 3; the rival on 1, 2, 3, 4 and 5.
    rival = ["b", "a", "a", "b", "b", "c"]
    same = PREDICTED
    table = probabilities(PREDICTED)
    got = measure(ACTUAL, PREDICTED, table, CLASSES, rival=rival, same=same)["rivals"]
    assert got["rival"]["top1"] == pytest.approx(5 / 6)
    assert got["rival"]["p"] == pytest.approx(binomtest(1, 4).pvalue)
    assert got["same"]["top1"] == 0.5 and got["same"]["p"] == 1


def test_how_sure_and_how_often_right_by_hand():
    table = [[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.45, 0.55]]
    got = measure(["a", "b", "b", "a"], ["a", "a", "b", "b"], table, ["a", "b"])
    bins = [(b["images"], b["sure"], b["right"]) for b in got["calibration"]]
    assert bins == [
        (1, pytest.approx(0.55), 0),
        (1, pytest.approx(0.65), 1),
        (2, pytest.approx(0.95), 0.5),
    ]
    assert got["calibration_error"] == pytest.approx((0.55 + 0.35 + 2 * 0.45) / 4)


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
    for key in ("precision", "recall"):
        theirs = expected["weighted avg"][key]
        assert got["weighted"][key] == pytest.approx(theirs)


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
    bounds = slices.pop("low"), slices.pop("high")
    assert [list(pair) for pair in zip(*bounds, strict=True)] == [
        interval(*counts) for counts in ((0, 2), (3, 4), (1, 3), (2, 3))
    ]
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
