"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refrag_components.evaluation.answers.contexts import RETRIEVALS
from refrag_components.evaluation.methods import METHODS, Method
from refrag_components.evaluation.reports.places import places_markdown
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.reports.titles import answers_title, rate_cell, text_title

__all__ = ["methods_table", "perplexity_markdown", "qa_markdown"]

_UNITS = {"": "", "_passages": ", by passage", "_articles": ", by article"}


def methods_table(methods: Sequence[type[Method]] = METHODS) -> list[str]:
    """Lines of a table of what the decoder reads in each kind of rows."""
    return markdown_table(
        ("method", "what the decoder reads"),
        [(f"`{method.kind}`", method.reads) for method in methods],
        numbers=False,
    )


def qa_markdown(tables: Sequence[dict[str, Any]], *, chunk_size: int) -> str:
    """Tables of ``summarise``, one section per setting and set, all at one k."""
    kinds = {row["kind"] for table in tables for row in table["rows"]}
    lines = [
        "# Question answering",
        "",
        "Exact match and F1 by the SQuAD rules in percent; log-ppl of the shortest right answer "
        "in nats per token. *Refused*: the share answered by saying that there is no answer; "
        "questions that have none are judged by it alone. Brackets hold 95% bootstrap intervals "
        "over questions; *by passage* and *by article*: over clusters of all questions on one "
        "passage or one article. Rate is context tokens / context positions. *As p* is text that "
        f"takes as many positions as that p. k={chunk_size}.",
        "",
        *methods_table([method for method in METHODS if method.kind in kinds]),
    ]
    for table in tables:
        answers = table["judged"] == "answers"
        lines += ["", f"## {answers_title(table)}", ""]
        lines += _qa_rows(table)
        if cut := {row["label"]: row["cut"] for row in table["rows"] if row["cut"]}:
            counts = ", ".join(f"{label}: {count}" for label, count in cut.items())
            lines += ["", f"Contexts cut to what fits the decoder's window: {counts}."]
        if table["keeping"]:
            lines += ["", "### Value of keeping", "", *_keeping(table)]
        if answers:
            lines += ["", "### F1 by kind of answer", ""]
            kinds_of_answers = table["kinds"]
            lines += markdown_table(
                ("context", *(f"{kind['kind']} ({kind['items']})" for kind in kinds_of_answers)),
                [
                    (
                        row["label"],
                        *(
                            _bracketed(kind["rows"][row["method"]], "f1", 100)
                            for kind in kinds_of_answers
                        ),
                    )
                    for row in table["rows"]
                ],
            )
        if table["pairs"]:
            lines += ["", "### Paired differences at equal positions", "", *_pairs(table)]
    lines += places_markdown(tables)
    return "\n".join(lines) + "\n"


def perplexity_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """Tables of ``measure_contexts``, one section per variant of the context."""
    lines = [
        "# Log-perplexity of a continuation",
        "",
        "Nats per token. Recovery is (none - this) / (none - full), all with the same weights. "
        "Brackets hold 95% bootstrap intervals over windows. Recalled: 48 tokens from anywhere in "
        "the context, after the 16 before them.",
    ]
    for table in tables:
        lines += [
            "",
            f"## {text_title(table)}",
            "",
        ]
        measured = ("log-ppl", "first 16 tokens", "recovery", "recalled, log-ppl", "recovery")
        headings = ("context", "positions", "rate", *measured)
        rows = [
            (
                row["label"],
                f"{row['positions']:.0f}",
                rate_cell(row),
                _bracketed(row, "log_ppl"),
                f"{row['log_ppl_first']:.3f}",
                _bracketed(row, "recovery"),
                f"{row['recall_log_ppl']:.3f}",
                f"{row['recall_recovery']:.3f}",
            )
            for row in table["rows"]
        ]
        lines += markdown_table(headings, rows)
        if table["pairs"]:
            lines += ["", "### Paired differences", ""]
            labels = {row["method"]: row["label"] for row in table["rows"]}
            lines += markdown_table(
                ("a", "b", "log-ppl, a - b", "p"),
                [
                    (
                        labels[pair["a"]],
                        labels[pair["b"]],
                        _signed(pair, "log_ppl"),
                        f"{pair['log_ppl_p']:.4f}",
                    )
                    for pair in table["pairs"]
                    if "full" not in (pair["a"], pair["b"])
                ],
            )
    return "\n".join(lines) + "\n"


def _qa_rows(table: dict[str, Any]) -> list[str]:
    clusters = table["clusters"]
    note = (
        f"Passages are {RETRIEVALS[table['retrieval']]}. The questions are on "
        f"{clusters['passages']} passages of {clusters['articles']} articles."
    )
    if table["judged"] == "refusals":
        headings: tuple[str, ...] = ("context", "positions", "rate", "refused", "log-ppl")
    else:
        scores = ("EM", "F1", "F1 of full", "log-ppl", "refused")
        headings = ("context", "positions", "rate", *scores)
    return [note, "", *markdown_table(headings, [_qa_row(row) for row in table["rows"]])]


def _qa_row(row: dict[str, Any]) -> tuple[str, ...]:
    cells = (row["label"], f"{row['positions']:.0f}", rate_cell(row))
    if "f1" not in row:
        return (*cells, _bracketed(row, "refused", 100), _bracketed(row, "log_ppl"))
    return (
        *cells,
        _bracketed(row, "em", 100),
        _bracketed(row, "f1", 100),
        _bracketed(row, "f1_of_full", 100) if "f1_of_full" in row else "",
        _bracketed(row, "log_ppl"),
        f"{100 * row['refused']:.1f}",
    )


def _keeping(table: dict[str, Any]) -> list[str]:
    """V of every score, with its intervals."""
    answers = table["judged"] == "answers"
    metrics = {"f1": "F1", "em": "EM"} if answers else {"refused": "refused"}
    lines = [
        "A score with the rest compressed less the score with the rest dropped, on the same "
        "questions; nats saved by keeping are per token of the answer. *Not shown*: the questions "
        "whose answer does not occur in the chunks that expand, without yes/no questions.",
        "",
    ]
    headings = ["context", "of", "questions"]
    for name in (*metrics.values(), "nats saved"):
        headings += [f"{name}{unit}" for unit in _UNITS.values()]
    rows = []
    for row in table["keeping"]:
        cells = [row["label"], row["of"], f"{row['items']:,}"]
        cells += [_signed(row, name, 100, unit) for name in metrics for unit in _UNITS]
        rows.append([*cells, *(_signed(row, "log_ppl", 1, unit) for unit in _UNITS)])
    return [*lines, *markdown_table(headings, rows)]


def _pairs(table: dict[str, Any]) -> list[str]:
    """Differences at equal positions; those from the full context are only in the JSON file."""
    score, name = ("f1", "F1") if table["judged"] == "answers" else ("refused", "refused")
    labels = {row["method"]: row["label"] for row in table["rows"]}
    rows = [
        (
            labels[pair["a"]],
            labels[pair["b"]],
            *(_signed(pair, score, 100, unit) for unit in _UNITS),
            f"{pair[f'{score}_p']:.4f}",
            *(_signed(pair, "log_ppl", 1, unit) for unit in _UNITS),
            f"{pair['log_ppl_p']:.4f}",
        )
        for pair in table["pairs"]
        if "full" not in (pair["a"], pair["b"])
    ]
    headings = ["a", "b"]
    for what in (f"{name}, a - b", "log-ppl, a - b"):
        headings += [*(f"{what}{unit}" for unit in _UNITS.values()), "p"]
    lines = markdown_table(headings, rows)
    note = (
        "p-values are from random sign flips, of all questions on one passage together, and are "
        "not corrected for multiple tests."
    )
    return [*lines, "", note]


def _bracketed(row: dict[str, Any], name: str, factor: int = 1) -> str:
    if row[name] is None:
        return ""
    low, high = row[f"{name}_interval"]
    digits = 1 if factor == 100 else 3
    values = (f"{factor * value:.{digits}f}" for value in (row[name], low, high))
    return "{} ({} to {})".format(*values)


def _signed(pair: dict[str, Any], name: str, factor: int = 1, unit: str = "") -> str:
    """A difference with its interval; for clusters only the interval, "-" if there is none."""
    bounds = pair[f"{name}_interval{unit}"]
    if bounds is None:
        return "-"
    digits = 1 if factor == 100 else 3
    low, high = (f"{factor * value:+.{digits}f}" for value in bounds)
    return f"{low} to {high}" if unit else f"{factor * pair[name]:+.{digits}f} ({low} to {high})"
