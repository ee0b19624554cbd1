"""What ``refrag eval`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from refrag_components.evaluation.reports.titles import answers_title, rate_cell, text_title

__all__ = ["keeping_table", "parts_table", "perplexity_table", "qa_table"]


def perplexity_table(result: dict[str, Any]) -> Table:
    """Rows of one variant of the context."""
    headings = ("context", "positions", "rate", "log-ppl", "recovery (95%)", "recall")
    table = _table(text_title(result), headings)
    for row in result["rows"]:
        low, high = row["recovery_interval"]
        table.add_row(
            row["label"],
            f"{row['positions']:.0f}",
            rate_cell(row),
            f"{row['log_ppl']:.3f}",
            f"{row['recovery']:.3f} ({low:.2f} to {high:.2f})",
            f"{row['recall_recovery']:.3f}",
        )
    return table


def qa_table(result: dict[str, Any]) -> Table:
    """Rows of one set, or of the mean over sets."""
    answers = result["judged"] == "answers"
    score, name = ("f1", "F1") if answers else ("refused", "refused")
    cut = any(row["cut"] for row in result["rows"])
    headings = ["context", "positions", "rate", *(["EM"] if answers else []), name]
    table = _table(
        answers_title(result), (*headings, "95% interval", "log-ppl", *(["cut"] if cut else []))
    )
    for row in result["rows"]:
        low, high = row[f"{score}_interval"]
        table.add_row(
            row["label"],
            f"{row['positions']:.0f}",
            rate_cell(row),
            *([f"{100 * row['em']:.1f}"] if answers else []),
            f"{100 * row[score]:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{row['log_ppl']:.3f}",
            *([str(row["cut"])] if cut else []),
        )
    return table


def keeping_table(result: dict[str, Any]) -> Table:
    """What compressing the rest is worth, compared with dropping it."""
    score, name = ("f1", "F1") if result["judged"] == "answers" else ("refused", "refused")
    title = "value of keeping: the rest compressed less the rest dropped"
    headings = ("context", "of", "n", name, "by question", "by passage", "nats saved")
    table = _table(title, headings, words=2)
    for row in result["keeping"]:
        bounds = [row[f"{score}_interval{unit}"] for unit in ("", "_passages")]
        table.add_row(
            row["label"],
            row["of"],
            str(row["items"]),
            f"{100 * row[score]:+.1f}",
            *(
                "-" if bound is None else f"{100 * bound[0]:+.1f} to {100 * bound[1]:+.1f}"
                for bound in bounds
            ),
            f"{row['log_ppl']:+.3f}",
        )
    return table


def parts_table(result: dict[str, Any]) -> Table:
    """One row per method of ``summarise_parts``, with its last part: all of them together."""
    from refrag_components.evaluation.reports.parts import METRICS, shown

    part, metrics = result["parts"][-1], result["metrics"]
    title = f"{result['set']}: {part['items']} questions"
    headings = [METRICS[metric][0] for metric in metrics]
    table = _table(title, ["context", "positions", *headings])
    for row in part["rows"]:
        figures = [shown(row, metric) for metric in metrics]
        table.add_row(row["label"], f"{row['positions']:.0f}", *figures)
    return table


def _table(title: str, headings: Sequence[str], *, words: int = 1) -> Table:
    """A table without rows yet; so many columns hold words, those behind them numbers."""
    table = Table(title=title)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < words else "right")
    return table
