"""A plot (PNG): curves with intervals, and levels to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.exceptions import EvaluationError

__all__ = ["Curve", "Level", "Point", "check_plotting", "draw"]

# Colours that colour-blind people can tell apart; the markers help too.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7f7f7f", "#000000", "#882255", "#999933", "#332288", "#aa4499"),
)
_MARKERS = "osD^vPX*<>ph"
_LOG_TICKS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
_DODGE = 2.5  # points between the error bars of two curves, which would hide one another


@dataclass(frozen=True)
class Point:
    """A measured value with its 95% interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Points that belong together.

    Attributes:
        label: Name in the legend.
        points: Points in ascending order of x.
        colour: Index of its colour and marker.
        dashed: Whether to draw a dashed line.
    """

    label: str
    points: Sequence[Point]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Level:
    """A value that does not depend on x, with its 95% interval."""

    label: str
    y: float
    low: float
    high: float


def check_plotting() -> None:
    """Checks, before any work is done, that plots can be drawn.

    Raises:
        EvaluationError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        msg = (
            "plots need matplotlib: pip install 'refrag-components[eval]', "
            "or leave the plots out with --no-plots"
        )
        raise EvaluationError(msg) from error


def draw(
    path: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    note: str,
    levels: Sequence[Level] = (),
    log_x: bool = False,
    ticks: Sequence[float] | None = None,
) -> Path:
    """Draws a plot; the file appears in one step, complete.

    Args:
        path: The PNG file to write.
        curves: Curves; error bars show their intervals.
        title: Title of the plot.
        x_label: Label of the horizontal axis, with its unit.
        y_label: Label of the vertical axis, with its unit.
        note: Note on what bars and bands show.
        levels: Horizontal lines; bands show their intervals.
        log_x: Whether the horizontal axis is logarithmic.
        ticks: Ticks of the horizontal axis; None leaves them to matplotlib.

    Returns:
        ``path``.

    Raises:
        EvaluationError: If matplotlib is not installed.
    """
    check_plotting()
    # Not pyplot, which looks for a display and keeps every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    if log_x:
        axes.set_xscale("log")
        seen = [point.x for curve in curves for point in curve.points]
        ticks = [
            t for t in _LOG_TICKS if min(seen, default=1) / 1.1 < t < 1.1 * max(seen, default=1)
        ]
    if ticks is not None:
        axes.set_xticks(ticks)
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for level, style in zip(levels, (":", "-.", "--"), strict=False):
        axes.axhspan(level.low, level.high, color="0.5", alpha=0.12, linewidth=0)
        axes.axhline(level.y, color="0.35", linestyle=style, linewidth=1.3, label=level.label)
    for i, curve in enumerate(curves):
        _draw_curve(axes, curve, _DODGE * (i - (len(curves) - 1) / 2))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        loc="outside right upper",
        frameon=False,
        fontsize=8,
        title=note,
        title_fontsize=7,
    )
    with atomic_file(path) as scratch:
        figure.savefig(scratch, dpi=150, format="png")
    return path


def _draw_curve(axes: Any, curve: Curve, shift: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    shifted = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    y = [point.y for point in curve.points]
    below = [max(point.y - point.low, 0.0) for point in curve.points]
    above = [max(point.high - point.y, 0.0) for point in curve.points]
    axes.errorbar(
        [point.x for point in curve.points],
        y,
        yerr=[below, above],
        label=curve.label,
        color=_COLOURS[curve.colour % len(_COLOURS)],
        marker=_MARKERS[curve.colour % len(_MARKERS)],
        linestyle="--" if curve.dashed else "-",
        linewidth=1.4,
        markersize=4.5,
        elinewidth=0.9,
        capsize=2,
        transform=shifted,
    )
    # Autoscaling ignores a shifted curve.
    axes.update_datalim([(p.x, y) for p in curve.points for y in (p.low, p.high)])
    axes.autoscale_view()
