"""Writes measurements: JSON for programs, Markdown tables, and plots as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.checking import parse_json
from refrag_components.evaluation.answers.results import write_json
from refrag_components.evaluation.reports.chart import check_plotting
from refrag_components.evaluation.reports.markdown import perplexity_markdown, qa_markdown
from refrag_components.evaluation.reports.plots import plot_perplexity, plot_qa
from refrag_components.exceptions import EvaluationError

__all__ = ["draw_plots", "write_perplexity", "write_qa"]

_QA, _PERPLEXITY = "qa.json", "perplexity.json"


def write_qa(
    folder: str | Path, model: str, tables: Sequence[dict[str, Any]], *, chunk_size: int
) -> list[Path]:
    """Writes ``qa.json`` and ``qa.md``.

    Args:
        folder: Folder to write to.
        model: Name of the model.
        tables: From ``summarise``.
        chunk_size: The k that was measured.

    Returns:
        The files written.
    """
    content = {"model": model, "chunk_size": chunk_size, "tables": list(tables)}
    return _write(Path(folder) / _QA, content, qa_markdown(tables, chunk_size=chunk_size))


def write_perplexity(
    folder: str | Path, model: str, tables: Sequence[dict[str, Any]]
) -> list[Path]:
    """Writes ``perplexity.json`` and ``perplexity.md``.

    Args:
        folder: Folder to write to.
        model: Name of the model.
        tables: From ``measure_contexts``.

    Returns:
        The files written.
    """
    content = {"model": model, "tables": list(tables)}
    return _write(Path(folder) / _PERPLEXITY, content, perplexity_markdown(tables))


def draw_plots(folder: str | Path) -> list[Path]:
    """Draws the plots of the measurements in a folder's JSON files.

    Returns:
        The files written.

    Raises:
        EvaluationError: If matplotlib is missing, or the folder contains no measurements.
    """
    check_plotting()
    target = Path(folder)
    written: list[Path] = []
    for name, plot in ((_QA, plot_qa), (_PERPLEXITY, plot_perplexity)):
        path = target / name
        if not path.is_file():
            continue
        try:
            tables = parse_json(path.read_text(encoding="utf-8"))["tables"]
            written += plot(tables, target)
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{path} is damaged ({error}); run the measurement again"
            raise EvaluationError(msg) from error
    if not written:
        msg = f"{folder} contains neither {_QA} nor {_PERPLEXITY}; run `refrag eval` first"
        raise EvaluationError(msg)
    return written


def _write(path: Path, content: dict[str, Any], markdown: str) -> list[Path]:
    write_json(path, content)
    text = path.with_suffix(".md")
    with atomic_file(text) as scratch:
        scratch.write_text(markdown, encoding="utf-8")
    return [path, text]
