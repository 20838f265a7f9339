"""The figures of an evaluation: a pure function of labels and predictions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from doggos_helpers.data.listing import CLASS, PATH
from doggos_helpers.errors import DataError
from doggos_helpers.evaluate.prediction import PREDICTED

TOP = 5


def compute_metrics(
    actual: Sequence[str],
    predicted: Sequence[str],
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Measure predictions against the labels, with the fixed label set.

    A class without test rows can't be hit or missed: it stays in the tables with
    support 0, and the macro averages leave it out.

    Args:
        actual: The label of each row, n of them.
        predicted: The prediction of each row.
        probabilities: float [n, classes], in the order of `classes`.
        classes: The label set, sorted.

    Returns:
        `top1`, `top5` (of at most as many classes as there are), macro `precision`,
        `recall`, `f1`, a `per_class` table, the `confusion` matrix (rows actual,
        columns predicted) and `chance`: guessing at random, and always guessing the
        class most frequent in these rows.

    Raises:
        DataError: There are no rows, or a label isn't in the label set.
    """
    from sklearn.metrics import classification_report, confusion_matrix

    names = list(classes)
    unknown = sorted(set(actual) - set(names))
    if unknown or not len(actual):
        raise DataError(
            f"labels outside the label set: {unknown}" if unknown else "no rows",
            f"{len(actual)} predictions",
            "Run the notebooks from 03_embedding on again",
        )
    report: Any = classification_report(
        actual, predicted, labels=names, zero_division=0, output_dict=True
    )
    per_class = [
        {CLASS: name, "f1": row.pop("f1-score"), **row, "support": int(row["support"])}
        for name, row in ((name, report[name]) for name in names)
    ]
    present = [row for row in per_class if row["support"]]
    # scikit-learn's top_k_accuracy_score wants other shapes for two classes.
    order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :TOP]
    hits = order == np.searchsorted(names, actual)[:, None]
    return {
        "rows": len(actual),
        "classes": names,
        "top1": float(np.mean(np.asarray(actual) == np.asarray(predicted))),
        "top5": float(hits.any(axis=1).mean()),
        "macro": {
            key: float(np.mean([row[key] for row in present]))
            for key in ("precision", "recall", "f1")
        },
        "chance": {
            "uniform": 1 / len(names),
            "majority": max(row["support"] for row in per_class) / len(actual),
        },
        "per_class": per_class,
        "confusion": confusion_matrix(actual, predicted, labels=names).tolist(),
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
