"""Which pictures show what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from refrag_components.evaluation.reports.chart import Curve, Level, Point, draw

__all__ = ["plot_perplexity", "plot_qa"]

_PLAIN = {"last": "last tokens", "fewer": "fewer passages"}
_LEVELS = ("full", "none")
_RETRIEVAL = {
    "given": "the right ones among distractors",
    "strong": "the most similar",
    "weak": "random of the 50 most similar",
}
_OWN = "bars and bands: 95% intervals"
_BESIDE = "bars and bands: 95% intervals of the\ndifference from the full context"
_F1, _LOG_PPL = "F1 (%)", "log-perplexity (nats a token)"

Row = dict[str, Any]
Table = dict[str, Any]


def plot_perplexity(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws log-perplexity against compression rate, one picture a chunk size and variant.

    Args:
        tables: From ``measure_contexts``.
        folder: Where to write.

    Returns:
        The files written.
    """
    return [
        draw(
            folder / f"perplexity-k{table['chunk_size']}-{table['order'].replace(' ', '-')}.png",
            _curves(table["rows"], "rate", "log_ppl"),
            levels=_levels(table["rows"], "log_ppl"),
            title=(
                f"{table['output_tokens']} tokens after {table['context_tokens']} of context, "
                f"{table['order']}; k={table['chunk_size']}, {table['windows']} windows"
            ),
            x_label="compression rate (context tokens / context positions)",
            y_label=_LOG_PPL,
            log_x=True,
            note=_BESIDE,
        )
        for table in tables
    ]


def plot_qa(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws F1 and log-perplexity against positions, and F1 against passages and retrieval.

    Args:
        tables: From ``summarise``.
        folder: Where to write.

    Returns:
        The files written; a picture with nothing to compare is left out.
    """
    written = []
    for table in tables:
        stem = f"{table['set']}-{table['retrieval']}-{table['passages']}".replace(" ", "-")
        for metric, y_label in (("f1", _F1), ("log_ppl", f"answer's {_LOG_PPL}")):
            path = folder / f"{metric.replace('_', '-')}-positions-{stem}.png"
            written.append(
                draw(
                    path,
                    _curves(table["rows"], "positions", metric),
                    levels=_levels(table["rows"], metric),
                    title=(
                        f"{table['set']}: {table['items']} questions, passages: "
                        f"{table['passages']}, {_RETRIEVAL[table['retrieval']]}"
                    ),
                    x_label="decoder positions of the prompt (mean)",
                    y_label=y_label,
                    note=_BESIDE if metric == "log_ppl" else _OWN,
                )
            )
    for name in dict.fromkeys(table["set"] for table in tables):
        own = [table for table in tables if table["set"] == name]
        written += _plot_passages(name, own, folder)
        written += _plot_retrieval(name, own, folder)
    return written


def _plot_passages(name: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """F1 against the number of passages, one picture a kind of retrieval."""
    written = []
    for retrieval in dict.fromkeys(table["retrieval"] for table in tables):
        own = _by_count(table for table in tables if table["retrieval"] == retrieval)
        if len(own) < 2:
            continue
        rows = [row for row in own[0]["rows"] if _is_shown(row, own[0])]
        written.append(
            draw(
                folder / f"f1-passages-{name.replace(' ', '-')}-{retrieval}.png",
                [
                    Curve(row["label"], _over(own, row["method"]), i, row["way"] in _PLAIN)
                    for i, row in enumerate(rows)
                ],
                title=f"{name}: passages are {_RETRIEVAL[retrieval]}",
                x_label="passages in the prompt",
                y_label=_F1,
                note=_OWN,
                ticks=[table["passages"] for table in own],
            )
        )
    return written


def _plot_retrieval(name: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """Strong against weak retrieval, for the rows that matter most."""
    strong, weak = (
        _by_count(table for table in tables if table["retrieval"] == kind)
        for kind in ("strong", "weak")
    )
    if not strong or not weak:
        return []
    shown = [row for row in strong[0]["rows"] if _is_shown(row, strong[0])]
    chosen = [row for row in shown if row["way"] in ("full", "compressed", "fewer")]
    selections = [row for row in shown if row["fraction"] and row["way"] not in _PLAIN]
    if selections:
        chosen.append(min(selections, key=lambda row: float(row["log_ppl"])))
    counts = {table["passages"] for table in (*strong, *weak)}
    return [
        draw(
            folder / f"f1-retrieval-{name.replace(' ', '-')}.png",
            [
                Curve(f"{row['label']}, {kind}", _over(own, row["method"]), i, kind == "weak")
                for i, row in enumerate(chosen)
                for kind, own in (("strong", strong), ("weak", weak))
            ],
            title=f"{name}: strong retrieval (the most similar) and weak (random of the top 50)",
            x_label="passages in the prompt",
            y_label=_F1,
            note=_OWN,
            ticks=sorted(counts),
        )
    ]


def _is_shown(row: Row, table: Table) -> bool:
    """Whether a row is drawn where p has no axis: the fixed ways and one p for all others."""
    fractions = {other["fraction"] for other in table["rows"] if other["fraction"]}
    middle = min(fractions, key=lambda p: abs(p - 0.25), default=None)
    return row["fraction"] is None or row["fraction"] == middle


def _by_count(tables: Iterable[Table]) -> list[Table]:
    return sorted(tables, key=lambda table: int(table["passages"]))


def _over(tables: Sequence[Table], method: str) -> list[Point]:
    """F1 of one method by number of passages."""
    return [
        _point(row, table["passages"], "f1")
        for table in tables
        for row in table["rows"]
        if row["method"] == method
    ]


def _curves(rows: Sequence[Row], x: str, y: str) -> list[Curve]:
    """A curve for every way that has a fraction p; all selections begin at p = 0."""
    start = [row for row in rows if row["way"] == "compressed"]
    curves: list[Curve] = []
    for way in dict.fromkeys(row["way"] for row in rows if row["fraction"] is not None):
        own = [row for row in rows if row["way"] == way]
        own = own if way in _PLAIN else [*start, *own]
        points = sorted((_point(row, row[x], y) for row in own), key=lambda point: point.x)
        curves.append(Curve(_PLAIN.get(way, way), points, len(curves), way in _PLAIN))
    return curves


def _levels(rows: Sequence[Row], y: str) -> list[Level]:
    levels = []
    for row in sorted(rows, key=lambda row: str(row["way"])):
        if row["way"] in _LEVELS:
            point = _point(row, 0.0, y)
            levels.append(Level(row["label"], point.y, point.low, point.high))
    return levels


def _point(row: Row, x: float, y: str) -> Point:
    """A value with its interval; F1 in percent, log-perplexity beside that of the full context."""
    factor = 100.0 if y == "f1" else 1.0
    beside = row.get(f"{y}_beside_full")
    low, high = row[f"{y}_interval"] if beside is None else beside
    return Point(float(x), factor * row[y], factor * low, factor * high)
