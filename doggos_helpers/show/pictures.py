"""Figures with images in them, and source listings."""

import inspect
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, upright
from doggos_helpers.search.index import Match
from doggos_helpers.settings import Settings
from doggos_helpers.show.charts import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL = 160


def show_source(thing: Any) -> None:
    """Display the source of a function or class, with highlighting."""
    from IPython.display import Code, display

    display(Code(textwrap.dedent(inspect.getsource(thing)), language="python"))


def thumbnail(settings: Settings, path: str) -> np.ndarray:
    """Read an image as a square uint8 thumbnail; grey where it can't be read."""
    from PIL import ImageOps

    try:
        image = upright(read_bytes(settings.dataset_root, path), least_edge=THUMBNAIL)
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
    figure, grid = _grid(max(1, -(-len(paths) // columns)), columns)
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
    axis = figure.subplots(subplot_kw={"xticks": [], "yticks": []})
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
