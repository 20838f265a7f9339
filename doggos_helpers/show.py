"""Figures and source listings for the notebooks; imported by them alone."""

import inspect
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, upright
from doggos_helpers.search.index import Match
from doggos_helpers.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL = 160


def new_figure(width: float, height: float) -> "Figure":
    """Make a figure (in inches) that Jupyter shows once: as the cell's result."""
    import matplotlib.pyplot as plt  # importing it teaches Jupyter to draw figures

    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure


def show_source(thing: Any) -> None:
    """Display the source of a function or class, with highlighting."""
    from IPython.display import Code, display

    source = textwrap.dedent(inspect.getsource(thing))
    display(Code(source, language="python"))


def thumbnail(settings: Settings, path: str) -> np.ndarray:
    """Read an image as a square uint8 thumbnail; grey where it can't be read."""
    from PIL import ImageOps

    try:
        data = read_bytes(settings.dataset_root, path)
        image = upright(data, least_edge=THUMBNAIL)
    except BadImage:
        return np.full((THUMBNAIL, THUMBNAIL, 3), 200, np.uint8)
    return np.asarray(ImageOps.pad(image, (THUMBNAIL, THUMBNAIL), color="white"))


def _grid(rows: int, columns: int) -> "tuple[Figure, np.ndarray]":
    """Make a figure of places for thumbnails."""
    figure = new_figure(1.6 * columns, 1.85 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.ravel():
        axis.axis("off")
    return figure, grid


def sheet(
    settings: Settings,
    paths: Sequence[str],
    titles: Sequence[str] | None = None,
    columns: int = 6,
) -> "Figure":
    """Draw images in rows.

    Args:
        settings: For the data set.
        paths: Of the images.
        titles: One an image; by default its class.
        columns: Images in a row.
    """
    titles = titles or [Path(path).parent.name for path in paths]
    figure, grid = _grid(-(-len(paths) // columns), columns)
    for axis, path, title in zip(grid.ravel(), paths, titles, strict=False):
        axis.imshow(thumbnail(settings, path))
        axis.set_title(title, fontsize=8)
    return figure


def strips(
    settings: Settings,
    queries: Mapping[str, Sequence[Match]],
    images: Collection[str] = (),
) -> "Figure":
    """Draw the matches of each query as a row, with their similarities.

    Args:
        settings: For the data set.
        queries: Matches by query, which is written at the start of its row.
        images: The queries that are paths of the data set: they are drawn there.
    """
    most = max(len(matches) for matches in queries.values())
    figure, grid = _grid(len(queries), 1 + most)
    for row, (query, matches) in zip(grid, queries.items(), strict=True):
        if query in images:
            row[0].imshow(thumbnail(settings, query))
            row[0].set_title(f"query: {Path(query).parent.name}", fontsize=8)
        else:
            text = textwrap.fill(f"“{query}”", 16)
            row[0].text(0.5, 0.5, text, ha="center", va="center", fontsize=10)
        for axis, match in zip(row[1:], matches, strict=False):
            axis.imshow(thumbnail(settings, match.path))
            axis.set_title(f"{match.class_name}  {match.score:.2f}", fontsize=8)
    return figure


def embedding_map(vectors: np.ndarray, classes: np.ndarray, seed: int) -> "Figure":
    """Draw embeddings in two dimensions (t-SNE), a colour and shape a class.

    The name of a class, of up to 24, is where its images lie closest together.

    Args:
        vectors: float32 [n, d]; of more than 2,000 rows a random 2,000 are drawn.
        classes: str [n].
        seed: Of the choice and of t-SNE.
    """
    import matplotlib
    from matplotlib.patheffects import withStroke
    from sklearn.manifold import TSNE

    if len(vectors) > 2000:
        chosen = np.random.default_rng(seed).choice(len(vectors), 2000, replace=False)
        vectors, classes = vectors[chosen], classes[chosen]
    perplexity = min(30, max(2, (len(vectors) - 1) // 3))
    tsne = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed)
    points = tsne.fit_transform(vectors)
    figure = new_figure(8.5, 5)
    axis = figure.subplots()
    axis.set(xticks=[], yticks=[])
    # Colours that colour-blind readers tell apart; a second round has other shapes.
    colours, names = matplotlib.colormaps["okabe_ito"](range(8)), sorted(set(classes))
    for number, name in enumerate(names):
        mine, (shape, colour) = points[classes == name], divmod(number, len(colours))
        x, y = mine.T
        axis.scatter(x, y, s=14, color=colours[colour], marker="o^sDvPX*"[shape % 8])
        if len(names) <= 24:
            far = np.linalg.norm(mine[:, None] - mine[None], axis=2).sum(axis=1)
            text = axis.annotate(name, mine[far.argmin()], fontsize=8, ha="center")
            text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    return figure


def bars(values: Mapping[str, float], label: str) -> "Figure":
    """Draw one horizontal bar a name."""
    figure = new_figure(6, 0.4 + 0.32 * len(values))
    axis = figure.subplots()
    drawn = axis.barh(list(values), list(values.values()), color="#4477aa")
    axis.bar_label(drawn, fmt="%g", padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def usage(samples: pd.DataFrame) -> "Figure":
    """Draw what was sampled while something ran: each column over the first one.

    Where there is a column `node`, each node has its line.
    """
    over, *names = [c for c in samples.columns if c != "node"]
    nodes = samples.groupby("node") if "node" in samples else [("", samples)]
    figure = new_figure(7, 1.5 * len(names))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        for number, (node, seen) in enumerate(nodes):
            color = "#4477aa" if "node" not in samples else f"C{number}"
            axis.plot(seen[over], seen[name], color=color, marker=".", ms=4, label=node)
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(0, 1.1 * samples[name].max() or 1)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(over)
    if "node" in samples:
        axes[0].legend(fontsize=7)
    return figure


def latency_histogram(reports: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Draw the latencies of load tests, by title, above each other."""
    figure = new_figure(7, 1.9 * len(reports))
    axes = figure.subplots(len(reports), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(max(r["latencies_ms"], default=1.0) for r in reports.values())
    edges = np.linspace(0, longest, 31)  # shared by all
    for axis, (title, report) in zip(axes, reports.items(), strict=True):
        axis.hist(report["latencies_ms"], bins=edges, color="#4477aa")
        for name, style in (("p50", "-"), ("p95", "--")):
            at = report["latency_ms"].get(name, np.nan)
            axis.axvline(at, color="#cc3311", ls=style, label=f"{name} {at:.0f} ms")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set(ylabel="replies")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("latency (ms)")
    return figure


def loss_curves(history: Sequence[Mapping[str, Any]], classes: int) -> "Figure":
    """Draw training and validation loss over the epochs, and mark the best epoch.

    Args:
        history: One mapping an epoch, with epoch, train_loss and val_loss.
        classes: How many; the loss of guessing among them is drawn as a line.
    """
    from matplotlib.ticker import MaxNLocator

    table = pd.DataFrame(history).set_index("epoch")
    best = table["val_loss"].idxmin()
    figure = new_figure(6.5, 3.6)
    axis = figure.subplots()
    table[["train_loss", "val_loss"]].set_axis(["training", "validation"], axis=1).plot(
        ax=axis, marker="o", ms=3, color=["#4477aa", "#ee6677"]
    )
    axis.plot(best, table["val_loss"][best], "o", ms=11, mfc="none", color="#ee6677")
    axis.lines[-1].set_label(f"best: epoch {best}")
    axis.axhline(np.log(classes), color="grey", linestyle=":", label="guessing")
    axis.set(xlabel="epoch", ylabel="loss (cross-entropy)")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
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


def confident_mistakes(settings: Settings, predictions: pd.DataFrame) -> "Figure":
    """Draw the twelve wrongly classified images with the highest probabilities.

    Args:
        settings: For the data set.
        predictions: The data frame of `read_predictions`.
    """
    wrong = predictions[predictions["class"] != predictions["predicted"]]
    wrong = wrong.sort_values("probability", ascending=False).head(12)
    if wrong.empty:
        figure = new_figure(6, 0.8)
        figure.text(0.5, 0.5, "No mistakes to show.", ha="center", va="center")
        return figure
    titles = [
        f"{row['class']}\nsaid {row['predicted']}\n{row['probability']:.2f}"
        for row in wrong.to_dict("records")
    ]
    return sheet(settings, wrong["path"].tolist(), titles, columns=4)
