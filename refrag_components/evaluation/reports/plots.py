"""The plots of a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from refrag_components.evaluation.answers.contexts import RETRIEVALS
from refrag_components.evaluation.methods import COMPRESSED, FULL, GOLD, NONE, FewerPassages
from refrag_components.evaluation.reports.chart import Curve, Level, Point, draw

__all__ = ["plot_perplexity", "plot_qa"]

_LEVELS = tuple(method.kind for method in (FULL, GOLD, NONE))
_PLAIN = "bars and bands: 95% intervals"
_DIFFERENCE = "bars and bands: 95% intervals of the\ndifference from the full context"
_F1, _LOG_PPL = "F1 (%)", "log-perplexity (nats per token)"
_REFUSED = "refused (%)"

Row = dict[str, Any]
Table = dict[str, Any]


def plot_perplexity(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws log-perplexity against compression rate, one plot per chunk size and variant.

    Args:
        tables: From ``measure_contexts``.
        folder: Folder to write to.

    Returns:
        The files written.
    """
    several = len({table["context_tokens"] for table in tables}) > 1
    return [
        draw(
            folder / f"perplexity-{_stem(table, several)}.png",
            _curves(table["rows"], "rate", "log_ppl"),
            levels=_levels(table["rows"], "log_ppl"),
            title=(
                f"{table['output_tokens']} tokens after {table['context_tokens']} of context, "
                f"{table['order']}; k={table['chunk_size']}, {table['windows']} windows"
            ),
            x_label="compression rate (context tokens / context positions)",
            y_label=_LOG_PPL,
            log_x=True,
            note=_DIFFERENCE,
        )
        for table in tables
    ]


def _stem(table: Table, several: bool) -> str:
    """What tells a table of running text from others, with its context if these differ."""
    context = f"-s{table['context_tokens']}" if several else ""
    return f"k{table['chunk_size']}{context}-{table['order'].replace(' ', '-')}"


def plot_qa(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Draws F1 and log-perplexity against positions, and F1 against passages and retrieval.

    For questions without an answer the share of refusals replaces F1.

    Args:
        tables: From ``summarise``.
        folder: Folder to write to.

    Returns:
        The files written; a plot with nothing to compare is left out.
    """
    written = []
    for table in tables:
        stem = f"{table['set']}-{table['retrieval']}-{table['passages']}".replace(" ", "-")
        stem += f"-{table['place']}" if table.get("place") else ""
        stem += "-refusals" if table["judged"] == "refusals" else ""
        score = ("f1", _F1) if table["judged"] == "answers" else ("refused", _REFUSED)
        for metric, y_label in (score, ("log_ppl", f"answer's {_LOG_PPL}")):
            path = folder / f"{metric.replace('_', '-')}-positions-{stem}.png"
            written.append(
                draw(
                    path,
                    _curves(table["rows"], "positions", metric),
                    levels=_levels(table["rows"], metric),
                    title=(
                        f"{table['set']}: {table['items']} questions, passages: "
                        f"{table['passages']}, {RETRIEVALS[table['retrieval']]}"
                    ),
                    x_label="decoder positions of the prompt (mean)",
                    y_label=y_label,
                    note=_DIFFERENCE if metric == "log_ppl" else _PLAIN,
                )
            )
    answered = [table for table in tables if table["judged"] == "answers"]
    for name in dict.fromkeys(table["set"] for table in answered):
        of_set = [table for table in answered if table["set"] == name]
        written += _plot_passages(name, of_set, folder)
        written += _plot_retrieval(name, of_set, folder)
    return written


def _plot_passages(name: str, tables: Sequence[Table], folder: Path) -> list[Path]:
    """F1 against the number of passages, one plot per kind of retrieval."""
    written = []
    kinds = dict.fromkeys((table["retrieval"], table.get("place")) for table in tables)
    for retrieval, place in kinds:
        counts = _by_count(
            t for t in tables if (t["retrieval"], t.get("place")) == (retrieval, place)
        )
        kind = retrieval if place is None else f"{retrieval}-{place}"
        if len(counts) < 2:
            continue
        rows = [row for row in counts[0]["rows"] if _is_shown(row, counts[0])]
        written.append(
            draw(
                folder / f"f1-passages-{name.replace(' ', '-')}-{kind}.png",
                [
                    Curve(row["label"], _over(counts, row["method"]), i, _is_plain(row))
                    for i, row in enumerate(rows)
                ],
                title=f"{name}: passages are {RETRIEVALS[retrieval]}"
                + (f", at the {place}" if place else ""),
                x_label="passages in the prompt",
                y_label=_F1,
                note=_PLAIN,
                ticks=[table["passages"] for table in counts],
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
    matter = (FULL.kind, COMPRESSED.kind, FewerPassages.kind)
    chosen = [row for row in shown if row["kind"] in matter]
    selections = [row for row in shown if row["fraction"] and row["compresses"]]
    if selections:
        chosen.append(min(selections, key=lambda row: float(row["log_ppl"])))
    counts = {table["passages"] for table in (*strong, *weak)}
    return [
        draw(
            folder / f"f1-retrieval-{name.replace(' ', '-')}.png",
            [
                Curve(f"{row['label']}, {kind}", _over(by_count, row["method"]), i, kind == "weak")
                for i, row in enumerate(chosen)
                for kind, by_count in (("strong", strong), ("weak", weak))
            ],
            title=f"{name}: strong retrieval (the most similar) and weak (random of the top 50)",
            x_label="passages in the prompt",
            y_label=_F1,
            note=_PLAIN,
            ticks=sorted(counts),
        )
    ]


def _is_shown(row: Row, table: Table) -> bool:
    """Whether a row is drawn in a plot without an axis for p: rows without p, and one p."""
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
    """A curve for all rows that differ only in p; compressed ones begin at p = 0."""
    start = [row for row in rows if row["kind"] == COMPRESSED.kind]
    curves: list[Curve] = []
    for name in dict.fromkeys(row["curve"] for row in rows if row["curve"] is not None):
        on_curve = [row for row in rows if row["curve"] == name]
        plain = _is_plain(on_curve[0])
        on_curve = on_curve if plain else [*start, *on_curve]
        points = sorted((_point(row, row[x], y) for row in on_curve), key=lambda point: point.x)
        curves.append(Curve(name, points, len(curves), plain))
    return curves


def _is_plain(row: Row) -> bool:
    """Whether a row has a p but no chunk embeddings: its curve is dashed."""
    return row["curve"] is not None and not row["compresses"]


def _levels(rows: Sequence[Row], y: str) -> list[Level]:
    levels = []
    for row in sorted(rows, key=lambda row: str(row["kind"])):
        if row["kind"] in _LEVELS:
            point = _point(row, 0.0, y)
            levels.append(Level(row["label"], point.y, point.low, point.high))
    return levels


def _point(row: Row, x: float, y: str) -> Point:
    """A value with its interval: shares in percent, log-perplexity relative to full context."""
    factor = 1.0 if y == "log_ppl" else 100.0
    relative = row.get(f"{y}_beside_full")
    low, high = row[f"{y}_interval"] if relative is None else relative
    return Point(float(x), factor * row[y], factor * low, factor * high)
