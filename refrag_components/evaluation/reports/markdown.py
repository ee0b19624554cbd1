"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["perplexity_markdown", "qa_markdown"]


def qa_markdown(tables: Sequence[dict[str, Any]], *, chunk_size: int) -> str:
    """The figures of ``summarise``, one section a setting and set; all at one k."""
    lines = [
        "# Question answering",
        "",
        "Exact match and F1 by the SQuAD rules in percent; log-ppl of the shortest right answer "
        "in nats a token. Brackets hold 95% bootstrap intervals over questions. Rate is context "
        "tokens by context positions. *As p* is plain text that takes as many positions as that "
        "p: the last tokens of the context, or the passages most similar to the question. "
        f"k={chunk_size}.",
    ]
    for table in tables:
        lines += ["", f"## {_title(table)}", ""]
        headings = ("context", "positions", "rate", "EM", "F1", "F1 of full", "log-ppl")
        lines += _table(headings, [_qa_row(row) for row in table["rows"]])
        lines += ["", "### F1 by kind of answer", ""]
        kinds = table["kinds"]
        lines += _table(
            ("context", *(f"{kind['kind']} ({kind['items']})" for kind in kinds)),
            [
                (row["label"], *(_percent(kind["rows"][row["method"]], "f1") for kind in kinds))
                for row in table["rows"]
            ],
        )
        if table["pairs"]:
            lines += ["", "### Paired differences", "", *_pairs(table)]
    return "\n".join(lines) + "\n"


def perplexity_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """The figures of ``measure_contexts``, one section a variant of the context."""
    lines = [
        "# Log-perplexity of a continuation",
        "",
        "Nats a token. Recovery is (none - this) / (none - full), the same weights three ways. "
        "Brackets hold 95% bootstrap intervals over windows.",
    ]
    for table in tables:
        lines += [
            "",
            f"## k={table['chunk_size']}, s={table['context_tokens']}, "
            f"o={table['output_tokens']}, {table['windows']} windows, {table['order']}",
            "",
        ]
        headings = ("context", "positions", "rate", "log-ppl", "first 16 tokens", "recovery")
        rows = [
            (
                row["label"],
                f"{row['positions']:.0f}",
                _rate(row),
                _bracketed(row, "log_ppl", 3),
                f"{row['log_ppl_first']:.3f}",
                _bracketed(row, "recovery", 3),
            )
            for row in table["rows"]
        ]
        lines += _table(headings, rows)
        if table["pairs"]:
            lines += ["", "### Paired differences", ""]
            lines += _table(
                ("a", "b", "log-ppl, a - b", "p"),
                [
                    (pair["a"], pair["b"], _signed(pair, "log_ppl"), f"{pair['log_ppl_p']:.4f}")
                    for pair in table["pairs"]
                    if "full" not in (pair["a"], pair["b"])
                ],
            )
    return "\n".join(lines) + "\n"


def _title(table: dict[str, Any]) -> str:
    count = table["passages"]
    passages = f"{count} passage" + ("s" if count > 1 else "")
    return f"{table['set']}: {table['items']} questions, {passages}, {table['retrieval']}"


def _qa_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["label"],
        f"{row['positions']:.0f}",
        _rate(row),
        _percent(row, "em"),
        _percent(row, "f1"),
        _percent(row, "f1_of_full") if "f1_of_full" in row else "",
        _bracketed(row, "log_ppl", 3),
    )


def _pairs(table: dict[str, Any]) -> list[str]:
    """Differences at equal positions; those from the full context are in the JSON file."""
    rows = [
        (
            pair["a"],
            pair["b"],
            _signed(pair, "f1", 100),
            f"{pair['f1_p']:.4f}",
            _signed(pair, "log_ppl"),
            f"{pair['log_ppl_p']:.4f}",
        )
        for pair in table["pairs"]
        if "full" not in (pair["a"], pair["b"])
    ]
    lines = _table(("a", "b", "F1, a - b", "p", "log-ppl, a - b", "p"), rows)
    return [*lines, "", "p-values are of random sign flips and not corrected for their number."]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---", *["---:"] * (len(headings) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (headings, aligned, *rows)]


def _rate(row: dict[str, Any]) -> str:
    return "" if row["rate"] is None else f"{row['rate']:.2f}"


def _percent(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{100 * row[name]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _bracketed(row: dict[str, Any], name: str, digits: int) -> str:
    if row[name] is None:
        return ""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _signed(pair: dict[str, Any], name: str, factor: int = 1) -> str:
    low, high = pair[f"{name}_interval"]
    digits = 1 if factor == 100 else 3
    values = (f"{factor * value:+.{digits}f}" for value in (pair[name], low, high))
    return "{} ({} to {})".format(*values)
