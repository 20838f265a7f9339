"""The figures of an evaluation: a pure function of labels and predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from doggos_helpers.data.listing import CLASS, PATH
from doggos_helpers.errors import DataError

PREDICTED = "predicted"
TOP = 5


class Tally:
    """Counts of predictions with a fixed label set, from which the figures follow.

    Args:
        classes: The label set, sorted.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """Begin at zero; nothing in here grows with the number of predictions."""
        self.classes = list(classes)
        self.confusion = np.zeros((len(self.classes),) * 2, np.int64)
        self.top = 0

    def add(self, actual: Any, predicted: Any, probabilities: np.ndarray) -> None:
        """Count some predictions.

        Args:
            actual: The label of each row, n of them.
            predicted: The prediction of each row.
            probabilities: float [n, classes], in the order of the label set.

        Raises:
            DataError: A label isn't in the label set.
        """
        if unknown := sorted(set(actual) - set(self.classes)):
            raise DataError(
                f"labels outside the label set: {unknown}",
                f"{len(actual)} predictions",
                "Run the notebooks from 03_embedding on again",
            )
        labels = np.searchsorted(self.classes, actual)
        cells = (labels, np.searchsorted(self.classes, predicted))
        np.add.at(self.confusion, cells, 1)
        # scikit-learn's top_k_accuracy_score wants other shapes for two classes.
        order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :TOP]
        self.top += int((order == labels[:, None]).sum())

    def metrics(self) -> dict[str, Any]:
        """Measure the predictions against the labels.

        A class without test rows can't be hit or missed: it stays in the tables with
        support 0, and the macro averages leave it out.

        Returns:
            `top1`, `top5` (of at most as many classes as there are), macro `precision`,
            `recall`, `f1`, a `per_class` table, the `confusion` matrix (rows actual,
            columns predicted) and `chance`: guessing at random, and always guessing the
            class most frequent in these rows.

        Raises:
            DataError: There are no rows.
        """
        from sklearn.metrics import precision_recall_fscore_support

        names, rows = self.classes, int(self.confusion.sum())
        if not rows:
            raise DataError("no rows", "0 predictions", "Run notebook 03_embedding")
        actual, predicted = self.confusion.nonzero()
        figures = precision_recall_fscore_support(
            actual,
            predicted,
            labels=range(len(names)),
            sample_weight=self.confusion[actual, predicted],
            zero_division=0,
        )
        keys = ("precision", "recall", "f1", "support")
        table = pd.DataFrame(dict(zip(keys, figures, strict=True)))
        table = table.astype({"support": int})
        table.insert(0, CLASS, names)
        present = table[table.support > 0]
        return {
            "rows": rows,
            "classes": names,
            "top1": float(np.trace(self.confusion) / rows),
            "top5": self.top / rows,
            "macro": {key: float(present[key].mean()) for key in keys[:3]},
            "chance": {
                "uniform": 1 / len(names),
                "majority": int(table.support.max()) / rows,
            },
            "per_class": table.to_dict("records"),
            "confusion": self.confusion.tolist(),
        }


def accuracy_by(
    predictions: pd.DataFrame, attributes: pd.DataFrame, names: Sequence[str]
) -> pd.DataFrame:
    """Compute the accuracy in slices: one row a value of each attribute.

    Args:
        predictions: With the columns path, class and predicted.
        attributes: With the column path, and one for each name.
        names: The attributes to slice by.

    Returns:
        The columns attribute, value, images (those with predictions) and accuracy.
    """
    joined = predictions[[PATH, CLASS, PREDICTED]].merge(
        attributes[[PATH, *names]], on=PATH
    )
    right = joined[CLASS] == joined[PREDICTED]
    rows = [
        (name, value, len(members), float(right[members].mean()))
        for name in names
        for value, members in joined.groupby(name).groups.items()
    ]
    return pd.DataFrame(rows, columns=["attribute", "value", "images", "accuracy"])
