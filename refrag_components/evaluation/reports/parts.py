"""Figures of several parts, such as turns of a conversation, as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.evaluation.answers.results import write_json
from refrag_components.evaluation.reports.table import markdown_table

__all__ = ["METRICS", "parts_markdown", "write_parts"]

#: Headings of columns, and the factor that they are shown with.
METRICS = {
    "f1": ("F1", 100),
    "em": ("right", 100),
    "log_ppl": ("log-ppl", 1),
    "rouge1": ("ROUGE-1", 100),
    "rouge2": ("ROUGE-2", 100),
    "rougeL": ("ROUGE-L", 100),
}


def write_parts(
    folder: str | Path,
    name: str,
    model: str,
    tables: Sequence[dict[str, Any]],
    *,
    title: str,
    note: str,
    facts: dict[str, Any],
) -> list[Path]:
    """Writes ``NAME.json`` and ``NAME.md``.

    Args:
        folder: Folder to write to.
        name: Name of the files.
        model: Name of the model.
        tables: From ``summarise_parts``.
        title: Heading of the Markdown file.
        note: What was measured, in whole sentences.
        facts: What else is written into the JSON file.

    Returns:
        The files written.
    """
    path = Path(folder) / f"{name}.json"
    write_json(path, {"model": model, **facts, "tables": list(tables)})
    text = path.with_suffix(".md")
    with atomic_file(text) as scratch:
        scratch.write_text(parts_markdown(tables, title=title, note=note), encoding="utf-8")
    return [path, text]


def parts_markdown(tables: Sequence[dict[str, Any]], *, title: str, note: str) -> str:
    """Tables of ``summarise_parts``: one row per method, one column per part."""
    lines = [
        f"# {title}",
        "",
        f"{note} Brackets hold 95% bootstrap intervals over questions, *by article* over clusters "
        "of all questions on one article. Differences are paired, at equal positions or from the "
        "full context.",
    ]
    for table in tables:
        parts, metrics = table["parts"], table["metrics"]
        lines += ["", f"## {table['set']}", ""]
        headings = ["context", *(f"{_name(part)} ({part['items']})" for part in parts)]
        labels = [row["label"] for row in parts[-1]["rows"]]
        lines += ["Decoder positions of the prompt:", ""]
        rows = [
            [label, *(f"{part['rows'][i]['positions']:.0f}" for part in parts)]
            for i, label in enumerate(labels)
        ]
        lines += markdown_table(headings, rows)
        for metric in metrics:
            heading, _ = METRICS[metric]
            rows = [
                [label, *(shown(part["rows"][i], metric) for part in parts)]
                for i, label in enumerate(labels)
            ]
            lines += ["", f"### {heading}", "", *markdown_table(headings, rows)]
        lines += ["", f"### Differences, {_name(parts[-1])}", "", *_pairs(parts[-1], metrics)]
        cut = [
            f"{row['label']}, {_name(part)}: {row['cut']:.0%}"
            for part in parts
            for row in part["rows"]
            if row["cut"]
        ]
        if cut:
            lines += ["", f"Contexts cut to what fits the decoder's window: {'; '.join(cut)}."]
    return "\n".join(lines) + "\n"


def shown(row: dict[str, Any], metric: str, suffix: str = "", *, sign: str = "") -> str:
    """A figure with its interval, "-" if there is none."""
    bounds = row[f"{metric}_interval{suffix}"]
    if bounds is None:
        return "-"
    _, factor = METRICS[metric]
    digits = 1 if factor == 100 else 3
    low, high = (f"{factor * value:{sign}.{digits}f}" for value in bounds)
    if suffix:
        return f"{low} to {high}"
    return f"{factor * row[metric]:{sign}.{digits}f} ({low} to {high})"


def _pairs(part: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    labels = {row["method"]: row["label"] for row in part["rows"]}
    headings = ["a", "b"]
    for metric in metrics:
        heading, _ = METRICS[metric]
        headings += [f"{heading}, a - b", "by article"]
    rows = []
    for pair in part["pairs"]:
        cells = [labels[pair["a"]], labels[pair["b"]]]
        for metric in metrics:
            cells += [shown(pair, metric, sign="+"), shown(pair, metric, "_articles", sign="+")]
        rows.append(cells)
    return markdown_table(headings, rows)


def _name(part: dict[str, Any]) -> str:
    if part["number"] is None:
        return str(part["part"])
    names = {"turn": "turn {}", "examples": "{} examples", "document": "{} documents"}
    return names[part["part"]].format(part["number"])
