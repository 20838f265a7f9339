"""The figures of an evaluation, from counts that don't grow with the predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import binomtest

from doggos_helpers.data.listing import CLASS, PATH

PREDICTED, PROBABILITY, PROBABILITIES = "predicted", "probability", "probabilities"
TOP, BINS = 5, 10


class Tally:
    """Counts of predictions with a fixed label set, from which the figures follow.

    Args:
        classes: The label set, sorted; all labels are in it.
        rivals: The columns with what others than the champion predict.
    """

    def __init__(self, classes: Sequence[str], rivals: Sequence[str] = ()) -> None:
        """Begin at zero; nothing in here grows with the number of predictions."""
        self.classes = list(classes)
        self.confusion = np.zeros((len(self.classes),) * 2, np.int64)
        self.alone_right = {name: [0, 0] for name in rivals}
        self.bins = np.zeros((BINS, 3))  # images, how sure, how often right
        self.top = 0

    def add(self, rows: pa.Table) -> None:
        """Count some predictions."""
        frame = rows.to_pandas()
        labels = np.searchsorted(self.classes, frame[CLASS])
        said = np.searchsorted(self.classes, frame[PREDICTED])
        np.add.at(self.confusion, (labels, said), 1)
        right, sure = said == labels, frame[PROBABILITY].to_numpy()
        for name, counts in self.alone_right.items():
            theirs = (frame[name] == frame[CLASS]).to_numpy()
            counts[0] += int((right & ~theirs).sum())
            counts[1] += int((theirs & ~right).sum())
        bins = np.minimum((sure * BINS).astype(int), BINS - 1)
        np.add.at(self.bins, bins, np.stack([right >= 0, sure, right], axis=1))
        # scikit-learn's top_k_accuracy_score wants other shapes for two classes.
        shares = np.reshape(frame[PROBABILITIES].tolist(), (-1, len(self.classes)))
        order = np.argsort(-shares, axis=1, kind="stable")[:, :TOP]
        self.top += int((order == labels[:, None]).sum())

    def metrics(self) -> dict[str, Any]:
        """Measure the predictions, of which there is at least one.

        A class without rows can't be hit or missed: it stays in the tables with
        support 0, and the macro means leave it out.

        Returns:
            `top1` with its `interval` (Wilson, 95%), `top5` (of at most as many classes
            as there are), `macro` and `weighted` means, a `per_class` table, the
            `confusion` matrix (rows actual, columns predicted), and `chance`: guessing
            at random, and always guessing the class most frequent in these rows.
            `rivals`: their `top1`, `interval`, and the `p` of McNemar's test.
            `one_vs_rest`: what is called accuracy where the right answers of one
            yes-or-no question a class are added up. `calibration`: a table of how sure
            and how often right; `calibration_error`: the difference, on average.
        """
        from sklearn.metrics import precision_recall_fscore_support

        rows, right = int(self.confusion.sum()), int(np.trace(self.confusion))
        actual, predicted = self.confusion.nonzero()
        count, weights = len(self.classes), self.confusion[actual, predicted]
        options = {"labels": range(count), "sample_weight": weights, "zero_division": 0}
        *scores, support = precision_recall_fscore_support(actual, predicted, **options)
        named = dict(zip(("precision", "recall", "f1"), scores, strict=True))
        table = pd.DataFrame({CLASS: self.classes, **named, "support": support})
        told: dict[str, Any] = {"rows": rows, "classes": self.classes, "rivals": {}}
        told |= {"top1": right / rows, "interval": interval(right, rows)}
        told |= {"top5": self.top / rows, "per_class": table.to_dict("records")}
        told["confusion"] = self.confusion.tolist()
        told["macro"] = {k: float(v[support > 0].mean()) for k, v in named.items()}
        told["weighted"] = {k: float(v @ support / rows) for k, v in named.items()}
        told["chance"] = {"uniform": 1 / count, "majority": float(support.max() / rows)}
        told["one_vs_rest"] = 1 - 2 * (rows - right) / (rows * count)
        for name, (ours, theirs) in self.alone_right.items():
            hits, tested = right - ours + theirs, binomtest(ours, max(1, ours + theirs))
            told["rivals"][name] = {"top1": hits / rows, "p": tested.pvalue}
            told["rivals"][name]["interval"] = interval(hits, rows)
        images, sure, hit = self.bins[self.bins[:, 0] > 0].T
        bins = {"images": images, "sure": sure / images, "right": hit / images}
        told["calibration"] = pd.DataFrame(bins).to_dict("records")
        return told | {"calibration_error": float(np.abs(sure - hit).sum() / rows)}


def interval(right: int, rows: int) -> list[float]:
    """Return the bounds of a share at 95% (Wilson)."""
    return list(binomtest(right, rows).proportion_ci(method="wilson"))


def accuracy_by(
    predictions: pd.DataFrame, attributes: pd.DataFrame, names: Sequence[str]
) -> pd.DataFrame:
    """Compute the accuracy in slices: one row a value of each attribute.

    Args:
        predictions: With the columns path, class and predicted.
        attributes: With the column path, and one for each name.
        names: The attributes to slice by.

    Returns:
        The columns attribute, value, images (those with predictions), accuracy, and
        its bounds low and high (Wilson, 95%).
    """
    columns = [PATH, CLASS, PREDICTED]
    joined = predictions[columns].merge(attributes[[PATH, *names]], on=PATH)
    right = joined[CLASS] == joined[PREDICTED]
    rows = []
    for name in names:
        for value, members in joined.groupby(name).groups.items():
            hits, count = int(right[members].sum()), len(members)
            rows.append((name, value, count, hits / count, *interval(hits, count)))
    told = ["attribute", "value", "images", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=told)
