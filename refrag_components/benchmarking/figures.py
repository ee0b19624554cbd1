"""The paper's three figures: acceleration over the full text, by length of the context."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.benchmarking.paper import PAPER, SOURCE
from refrag_components.benchmarking.results import Results, acceleration
from refrag_components.evaluation.reports.chart import check_plotting

__all__ = ["FIGURES", "curves", "draw_figures"]

#: Quantities, their files, and the figures' titles.
FIGURES: dict[str, tuple[str, str]] = {
    "first_token": ("first-token.png", "time to first token"),
    "token": ("per-token.png", "time per token after the first"),
    "throughput": ("throughput.png", "tokens per second with a full device"),
}

_COLOURS = {"k=8": "#0072b2", "k=16": "#d55e00", "k=32": "#009e73", "not cached": "#7f7f7f"}
_OTHERS = ("#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255", "#999933", "#332288", "#aa4499")


def draw_figures(results: Results, folder: Path) -> list[Path]:
    """Draws a figure for each quantity that was measured, the paper's points dashed beside it.

    Returns:
        The files written.

    Raises:
        EvaluationError: If matplotlib is not installed.
    """
    check_plotting()
    written = []
    for quantity, (name, title) in FIGURES.items():
        measured = curves(results, quantity)
        if measured:
            path = folder / name
            _draw(path, measured, PAPER[quantity], f"{title}: {results.settings['model']}")
            written.append(path)
    return written


def curves(results: Results, quantity: str) -> dict[str, dict[int, float]]:
    """Accelerations of a quantity by curve and tokens of context.

    Curves are named as the paper's series: "k=8" is cached with nothing expanded; others say what
    is different, as in "k=8, p=0.1, dropped" and "k=8, not cached".
    """
    found: dict[str, dict[int, float]] = {}
    for row in results.rows:
        value = None if row["method"] == "text" else acceleration(results, row, quantity)
        if value is not None:
            found.setdefault(_name(row), {})[row["context"]] = value
    return {name: dict(sorted(points.items())) for name, points in found.items()}


def _name(row: dict[str, Any]) -> str:
    parts = [f"k={row['k']}"]
    parts += [f"p={row['expanded']:g}"] if row["expanded"] else []
    parts += ["dropped"] if row["method"] == "drop" else []
    parts += [] if row["cached"] else ["not cached"]
    return ", ".join(parts)


def _draw(
    path: Path,
    measured: Mapping[str, Mapping[int, float]],
    paper: Mapping[str, Mapping[int, float]],
    title: str,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    others = iter(_OTHERS * (1 + len(measured) // len(_OTHERS)))
    for name, points in measured.items():
        colour = _COLOURS.get(name) or next(others)
        axes.plot(list(points), list(points.values()), "o-", color=colour, label=name, ms=4)
    for name, points in paper.items():
        style = {"color": _COLOURS[name], "alpha": 0.6, "ms": 4}
        axes.plot(list(points), list(points.values()), "x--", label=f"paper, {name}", **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    contexts = sorted({x for points in (*measured.values(), *paper.values()) for x in points})
    axes.set_xticks(contexts, [str(context) for context in contexts])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_xlabel("tokens of context")
    axes.set_ylabel("acceleration over the full text")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.supxlabel(f"dashed: {SOURCE}", fontsize=6, color="0.4")
    with atomic_file(path) as scratch:
        figure.savefig(scratch, dpi=150, format="png")
