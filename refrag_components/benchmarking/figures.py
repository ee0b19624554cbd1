"""The paper's three figures: acceleration over the full text, by length of the context."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
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

_COLOURS = {8: "#0072b2", 16: "#d55e00", 32: "#009e73"}
_OTHER_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255")
_GREY = "#7f7f7f"  # the paper's series that is the same for every k
_FRACTION = 0.1  # the expanded fraction that is drawn, or the one closest to it


def draw_figures(results: Results, folder: Path) -> list[Path]:
    """Draws a figure for each quantity that was measured, the paper's points dashed next to it.

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
    is different, as in "k=8, p=0.1, dropped" and "k=8, not cached". Of the expanded fractions only
    the one closest to .1 is among them, with cached passages; the table has all.
    """
    drawn = min(
        {row["expanded"] for row in results.rows if row["expanded"]},
        key=lambda fraction: abs(fraction - _FRACTION),
        default=0.0,
    )
    found: dict[str, dict[int, float]] = {}
    for row in results.rows:
        value = acceleration(results, row, quantity)
        shown = not row["expanded"] or (row["expanded"] == drawn and row["cached"])
        if row["method"] != "text" and shown and value is not None:
            found.setdefault(_name(row), {})[row["context"]] = value
    return {name: dict(sorted(points.items())) for name, points in found.items()}


def _name(row: dict[str, Any]) -> str:
    parts = [f"k={row['k']}"]
    parts += [f"p={row['expanded']:g}"] if row["expanded"] else []
    parts += ["dropped"] if row["method"] == "drop" else []
    parts += [] if row["cached"] else ["not cached"]
    return ", ".join(parts)


def _style(name: str, colours: dict[str, str]) -> dict[str, Any]:
    """A colour per k, a marker for what expands, a line for the rest and for the store."""
    rate, *others = name.split(", ")
    line = "-." if "dropped" in others else ":" if "not cached" in others else "-"
    marker = "^" if any(other.startswith("p=") for other in others) else "o"
    return {"color": colours.get(rate, _GREY), "linestyle": line, "marker": marker, "ms": 4}


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
    colours = {f"k={k}": colour for k, colour in _COLOURS.items()}
    rates = dict.fromkeys(name.split(", ")[0] for name in measured)
    unknown = [rate for rate in rates if rate not in colours]
    colours |= dict(zip(unknown, cycle(_OTHER_COLOURS), strict=False))
    for name, points in measured.items():
        axes.plot(list(points), list(points.values()), label=name, **_style(name, colours))
    for name, points in paper.items():
        style = {**_style(name, colours), "linestyle": "--", "marker": "x", "alpha": 0.6}
        axes.plot(list(points), list(points.values()), label=f"paper, {name}", **style)
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
