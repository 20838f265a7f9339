"""Charts: bars, curves, intervals and matrices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#4477aa", "#ee6677", "#888888"


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure (in inches) that Jupyter shows once: as the cell's result."""
    import matplotlib.pyplot as plt  # importing it teaches Jupyter to draw figures

    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure


def _axes(width: float, height: float, rows: int = 1, label: str = "") -> Any:
    """Make a figure of charts above each other, and return it and their axes.

    `label` is of the x axis that they share.
    """
    figure = new_figure(width, height * rows)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(label)
    return figure, axes


def bars(values: Mapping[str, float], label: str) -> "Figure":
    """Draw one horizontal bar a name."""
    figure, [axis] = _axes(6, 0.4 + 0.32 * len(values), label=label)
    drawn = axis.barh(list(values), list(values.values()), color=BLUE)
    axis.bar_label(drawn, fmt="%g", padding=3, fontsize=8)
    axis.invert_yaxis()
    return figure


def stacked(table: pd.DataFrame, label: str) -> "Figure":
    """Draw one horizontal bar a row of a table, of a piece a column."""
    figure, [axis] = _axes(8, 0.9 + 0.4 * len(table))
    table.plot.barh(ax=axis, stacked=True, colormap="tab20", edgecolor="white")
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def shares(table: pd.DataFrame, label: str, line: float) -> "Figure":
    """Draw shares with their bounds, one a row, and a dotted line.

    Args:
        table: Its index names the rows; its first three columns are a share and its
            lower and upper bound.
        label: Of the shares.
        line: Where a share means nothing, such as chance.
    """
    figure, [axis] = _axes(6.5, 0.7 + 0.26 * len(table), label=label)
    share, low, high = (table.iloc[:, i] for i in range(3))
    bounds = [share - low, high - share]
    axis.errorbar(share, table.index.astype(str), xerr=bounds, fmt="o", color=BLUE)
    axis.axvline(line, color=GREY, ls=":")
    axis.invert_yaxis()
    return figure


def usage(samples: pd.DataFrame) -> "Figure":
    """Draw what was sampled while something ran: each column over the first one.

    Where there is a column `node`, each node has its line.
    """
    over, *names = [column for column in samples.columns if column != "node"]
    nodes = samples.groupby("node") if "node" in samples else [("", samples)]
    # One chart where none could be read.
    figure, axes = _axes(7, 1.5, max(1, len(names)), label=over)
    for axis, name in zip(axes, names, strict=False):
        for node, seen in nodes:
            axis.plot(seen[over], seen[name], marker=".", ms=4, label=node)
        axis.set_title(name, fontsize=9, loc="left")
        most = samples[name].max()
        axis.set_ylim(0, 1.1 * most if most > 0 else 1)
    if "node" in samples:
        axes[0].legend(fontsize=7)
    return figure


def latency_histogram(reports: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draw the latencies of load tests, by title, above each other."""
    figure, axes = _axes(7, 1.9, len(reports), label="latency (ms)")
    longest = max(max(r["latencies_ms"], default=1.0) for r in reports.values())
    edges = np.linspace(0, longest, 31)  # shared by all
    for axis, (title, report) in zip(axes, reports.items(), strict=True):
        axis.hist(report["latencies_ms"], bins=edges, color=BLUE)
        for name, style in (("p50", "-"), ("p95", "--")):
            at = report["latency_ms"].get(name, np.nan)
            axis.axvline(at, color="#cc3311", ls=style, label=f"{name} {at:.0f} ms")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set(ylabel="replies")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def loss_curves(history: Sequence[Mapping[str, Any]], classes: int) -> "Figure":
    """Draw the losses of each candidate over the epochs, and mark its best epoch.

    Args:
        history: One mapping an epoch, as a run record has it. Where another attempt
            went on after a loss of workers, a line is drawn.
        classes: How many; the loss of guessing among them is drawn as a line.
    """
    figure, [axis] = _axes(7, 3.8)
    candidates = pd.DataFrame(history).groupby("candidate")
    for colour, (name, mine) in zip((BLUE, RED), candidates, strict=False):
        axis.plot(mine.epoch, mine.train_loss, color=colour, ls="--", lw=1)
        axis.plot(mine.epoch, mine.val_loss, color=colour, marker="o", ms=3, label=name)
        best = mine.loc[mine.val_loss.idxmin()]
        axis.plot(best.epoch, best.val_loss, "o", ms=11, mfc="none", color=colour)
        for epoch in mine.epoch[mine.attempt.diff() > 0]:
            axis.axvline(epoch - 0.5, color=colour, lw=1, label=f"{name}: gone on")
    axis.axhline(np.log(classes), color=GREY, ls=":", label="guessing")
    axis.set(xlabel="epoch", ylabel="loss (dashed: training)", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False)
    return figure


def trials(table: pd.DataFrame) -> "Figure":
    """Draw the validation losses of a sweep: each trial grey, the winner in colour.

    Args:
        table: One row an epoch, with trial, epoch and val_loss.
    """
    figure, [axis] = _axes(7, 3.6)
    best = table.loc[table.val_loss.idxmin(), "trial"]
    for number, mine in table.groupby("trial"):
        colour = RED if number == best else "#bbbbbb"
        axis.plot(mine.epoch, mine.val_loss, color=colour, marker="o", ms=3)
        axis.annotate(str(number), mine[["epoch", "val_loss"]].iloc[-1], fontsize=8)
    axis.set(xlabel="epoch", ylabel="validation loss", yscale="log")
    return figure


def calibration(before: pd.DataFrame, after: pd.DataFrame) -> "Figure":
    """Draw how often answers are right over how sure they are, in two tables.

    Args:
        before: One row a bin, with images, sure and right.
        after: The same, of scaled probabilities.
    """
    figure, [axis] = _axes(4.6, 4.2)
    axis.plot([0, 1], [0, 1], color=GREY, ls=":")
    for table, colour, name in ((before, BLUE, "as given"), (after, RED, "scaled")):
        axis.plot(table.sure, table.right, color=colour, lw=1, label=name)
        axis.scatter(table.sure, table.right, s=8 + table.images, color=colour)
    axis.set(xlabel="how sure (mean probability)", ylabel="how often right")
    axis.legend(frameon=False)
    return figure


def confusion_matrix(
    confusion: Sequence[Sequence[int]], classes: Sequence[str]
) -> "Figure":
    """Draw a confusion matrix; the numbers too, where there are 25 classes or fewer.

    Args:
        confusion: Rows actual, columns predicted.
        classes: The labels of both.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    size = min(12.0, 2.5 + 0.36 * len(classes))
    figure = new_figure(size, size)
    drawn = ConfusionMatrixDisplay(np.asarray(confusion), display_labels=classes).plot(
        ax=figure.subplots(),
        cmap="Blues",
        colorbar=False,
        include_values=len(classes) <= 25,
        xticks_rotation="vertical",
        text_kw={"size": 8},
    )
    drawn.ax_.set(xlabel="predicted", ylabel="actual")
    drawn.ax_.tick_params(labelsize=8)
    for number in np.ravel(drawn.text_ if drawn.text_ is not None else []):
        number.set_visible(number.get_text() != "0")
    return figure
