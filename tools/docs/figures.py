"""Pictures drawn at build: diagrams by Graphviz, benchmarks by matplotlib, as SVG."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#007A5A", "#6B7280"


def draw(source: Path) -> None:
    """Draw all of them into the assembled source."""
    for diagram in sorted((source / "diagrams").glob("*.dot")):
        command = ["dot", "-Tsvg", str(diagram), "-o", str(diagram.with_suffix(".svg"))]
        subprocess.run(command, check=True)
    folder = source / "figures"
    folder.mkdir()
    for name, drawer in DRAWERS.items():
        results = json.loads((RESULTS / f"{name}.json").read_text())
        axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")[1]
        drawer(axes, results)
        axes.spines[["top", "right"]].set_visible(False)
        plt.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close()


def embed(axes: Axes, results: dict[str, Any]) -> None:
    """Steady images a second of the four ways of `benchmarks/embed.py`."""
    names = {"a": "model alone", "b": "plain loop", "c": "usual example", "d": "ours"}
    medians = results["medians"]
    rows = [key for key in medians if key.split()[0] in names][::-1]
    for row, key in enumerate(rows):
        way, dtype = key.split()
        colour = {"c": ORANGE, "d": BLUE}.get(way, GREY)
        value = medians[key]["steady"]
        axes.barh(row, value, color=colour)
        axes.text(value + 0.3, row, f"{value:.1f}", va="center")
    axes.set_yticks(range(len(rows)), [f"{names[k[0]]}, {k[2:]}" for k in rows])
    axes.set_xlabel("images/s, steady state, 2 cores (CLIP ViT-B/32)")


def memory(axes: Axes, results: dict[str, Any]) -> None:
    """Peak memory of the driver by rows, of `benchmarks/memory.py`."""
    styles = {"train": (BLUE, "o"), "evaluate": (GREEN, "s"), "embed": (ORANGE, "^")}
    for stage, (colour, marker) in styles.items():
        rows = [row for row in results.get(stage, []) if row["driver"]]
        sizes, peaks = [r["rows"] for r in rows], [r["driver"] for r in rows]
        axes.plot(sizes, peaks, color=colour, marker=marker, label=stage)
    axes.set(xscale="log", ylim=(0, None), xlabel="rows")
    axes.set_ylabel("peak memory of the driver (MiB)")
    axes.legend(frameon=False)


def search(axes: Axes, results: dict[str, Any]) -> None:
    """Median latency of a search by rows, of `benchmarks/search.py`."""
    ways = {"vector index": (BLUE, "o"), "NumPy": (GREEN, "s")}
    ways["take_all + cdist"] = (ORANGE, "^")
    for way, (colour, marker) in ways.items():
        points = [
            (int(rows), by_way[way]["all p50_ms"])
            for rows, by_way in results.items()
            if rows.isdigit() and way in by_way
        ]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=way)
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="p50 of a search (ms)")
    axes.legend(frameon=False)


def serve(axes: Axes, results: dict[str, Any]) -> None:
    """Replies a second to 32 clients, of `benchmarks/serve.py`."""
    names = {
        "a loop": "decoding and model alone",
        "b uvicorn": "FastAPI and uvicorn",
        "c usual": "usual example",
        "d ours": "ours",
        "e ours, throughput options": "ours, throughput options",
        "f ours, HAProxy": "ours, HAProxy in front",
    }
    for row, key in enumerate(reversed(names)):
        figures = results["figures"][key]
        value = figures if key == "a loop" else figures["32 clients"]["replies/s"]
        colour = ORANGE if key == "c usual" else BLUE if "ours" in key else GREY
        axes.barh(row, value, color=colour)
        axes.text(value, row, f" {value:.0f}", va="center")
    axes.set_yticks(range(len(names)), list(names.values())[::-1])
    what = {"sample": "the sample's CLIP", "vit": "a CLIP ViT-B/32"}[results["model"]]
    axes.set_xlabel(f"images/s to 32 clients, 2 cores ({what})")


DRAWERS: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
    "embed": embed,
    "memory": memory,
    "search": search,
    "serve_sample": serve,
    "serve_vit": serve,
}
