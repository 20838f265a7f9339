"""Recomputes the figures of an evaluation from its predictions, with scikit-learn.

usage: python tools/check_metrics.py FOLDER

FOLDER holds predictions.parquet and metrics.json. Nothing of this project is imported:
what is equal here is equal by other people's code.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

BINS, TOP = 10, 5
KEYS = ("precision", "recall", "f1")


def recompute(rows: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """Measure predictions: the figures of metrics.json by the same names."""
    actual, predicted = rows["class"], rows["predicted"]
    right = (actual == predicted).to_numpy()
    shares = np.stack(rows["probabilities"].to_list())
    present = sorted(set(actual))
    told: dict[str, Any] = {
        "rows": len(rows),
        "top1": accuracy_score(actual, predicted),
        "interval": wilson(right.sum(), len(rows)),
        "confusion": confusion_matrix(actual, predicted, labels=classes).tolist(),
        "top5": 1.0,
    }
    if len(classes) > TOP:
        told["top5"] = top_k_accuracy_score(actual, shares, k=TOP, labels=classes)
    for average, labels in (("macro", present), ("weighted", classes)):
        scores = precision_recall_fscore_support(
            actual, predicted, labels=labels, average=average, zero_division=0
        )
        told[average] = dict(zip(KEYS, scores, strict=False))
    each = precision_recall_fscore_support(
        actual, predicted, labels=classes, zero_division=0
    )
    table = dict(zip((*KEYS, "support"), each, strict=True))
    told["per_class"] = pd.DataFrame({"class": classes} | table).to_dict("records")
    questions = multilabel_confusion_matrix(actual, predicted, labels=classes)
    told["one_vs_rest"] = np.trace(questions.sum(axis=0)) / questions.sum()
    bins = pd.cut(rows["probability"], np.linspace(0, 1, BINS + 1), right=False)
    gaps = (rows["probability"] - right).groupby(bins, observed=True).sum().abs()
    told["calibration_error"] = gaps.sum() / len(rows)
    told["rivals"] = {}
    known = {"path", "class", "split", "predicted", "probability", "probabilities"}
    for name in [c for c in rows if c not in known | {"node", "copy_of"}]:
        theirs = (rows[name] == actual).to_numpy()
        alone = [(right & ~theirs).sum(), (theirs & ~right).sum()]
        told["rivals"][name] = {
            "top1": theirs.mean(),
            "interval": wilson(theirs.sum(), len(rows)),
            "p": binomtest(min(alone), sum(alone)).pvalue if sum(alone) else 1.0,
        }
    return told


def wilson(hits: int, rows: int) -> list[float]:
    """Return Wilson's bounds of a share at 95%, by the formula."""
    z, share = 1.959963984540054, hits / rows
    centre = share + z**2 / (2 * rows)
    half = z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return [(centre - half) / (1 + z**2 / rows), (centre + half) / (1 + z**2 / rows)]


def differences(mine: Any, theirs: Any, where: str = "") -> list[str]:
    """List where two nested structures of numbers and names differ."""
    if isinstance(mine, dict):
        keys = sorted(mine) if sorted(mine) == sorted(theirs) else ["keys differ"]
        pairs = [(k, mine.get(k), theirs.get(k)) for k in keys]
    elif isinstance(mine, list):
        if len(mine) != len(theirs):
            return [f"{where}: {len(mine)} and {len(theirs)} long"]
        pairs = list(zip(map(str, range(len(mine))), mine, theirs, strict=True))
    elif isinstance(mine, str):
        return [] if mine == theirs else [f"{where}: {mine} and {theirs}"]
    else:
        close = theirs is not None and abs(mine - theirs) < 1e-6
        return [] if close else [f"{where}: {mine} and {theirs}"]
    return [d for key, *pair in pairs for d in differences(*pair, f"{where}/{key}")]


def main(arguments: list[str]) -> int:
    """Compare, and print what is equal and what differs."""
    folder = Path(arguments[0])
    stored = json.loads((folder / "metrics.json").read_text())
    rows = pd.read_parquet(folder / "predictions.parquet")
    mine = recompute(rows[rows["split"] == "test"], stored["classes"])
    found = differences(mine, {key: stored.get(key) for key in mine})
    print("\n".join(found) or f"equal: {', '.join(mine)}, of {mine['rows']} rows")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
