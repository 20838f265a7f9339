"""Figures and source listings for the notebooks; imported by them alone."""

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.config import Settings
from doggos_helpers.images import BadImage, read_bytes, upright
from doggos_helpers.search import Match

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
    titles = titles or [path.split("/")[-2] for path in paths]
    rows = -(-len(paths) // columns)
    figure = new_figure(1.6 * columns, 1.85 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, path, title in zip(axes, paths, titles, strict=False):
        axis.imshow(thumbnail(settings, path))
        axis.set_title(title, fontsize=8)
    return figure


def strips(
    settings: Settings, queries: Mapping[str, Sequence[Match]], first: str = ""
) -> "Figure":
    """Draw the matches of each query as a row, with their similarities.

    Args:
        settings: For the data set.
        queries: Matches by query; a query that is a path of the data set is drawn
            at the start of its row, any other is written there.
        first: The title over the column of queries.
    """
    columns = 1 + max(len(matches) for matches in queries.values())
    figure = new_figure(1.6 * columns, 1.85 * len(queries))
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for axis in grid.ravel():
        axis.axis("off")
    for row, (query, matches) in zip(grid, queries.items(), strict=True):
        if query.count("/") == 2:
            row[0].imshow(thumbnail(settings, query))
            row[0].set_title(first or f"query: {query.split('/')[1]}", fontsize=8)
        else:
            text = textwrap.fill(f"“{query}”", 16)
            row[0].text(0.5, 0.5, text, ha="center", va="center", fontsize=10)
        for axis, match in zip(row[1:], matches, strict=False):
            axis.imshow(thumbnail(settings, match.path))
            axis.set_title(f"{match.class_name}  {match.score:.2f}", fontsize=8)
    return figure


def embedding_map(vectors: np.ndarray, classes: np.ndarray, seed: int) -> "Figure":
    """Draw embeddings in two dimensions (t-SNE), coloured by class.

    Args:
        vectors: float32 [n, d]; of more than 2,000 rows a random 2,000 are drawn.
        classes: str [n].
        seed: Of the choice and of t-SNE.
    """
    import matplotlib
    from sklearn.manifold import TSNE

    if len(vectors) > 2000:
        chosen = np.random.default_rng(seed).choice(len(vectors), 2000, replace=False)
        vectors, classes = vectors[chosen], classes[chosen]
    perplexity = min(30, max(2, (len(vectors) - 1) // 3))
    tsne = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=seed)
    points = tsne.fit_transform(vectors)
    names = sorted(set(classes))
    colours = matplotlib.colormaps["nipy_spectral"](np.linspace(0.05, 0.95, len(names)))
    figure = new_figure(8.5, 5)
    axis = figure.subplots()
    for name, colour in zip(names, colours, strict=True):
        mine = points[classes == name]
        axis.scatter(
            *mine.T, s=14, color=colour, label=name if len(names) <= 24 else ""
        )
    axis.set(xticks=[], yticks=[])
    if len(names) <= 24:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
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
