"""``refrag index``: documents to an index."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from refrag_components.cli.common import (
    DEFAULT_MODEL,
    ModelOption,
    errors,
    load_model,
    output,
    say,
)

if TYPE_CHECKING:
    from refrag_components.documents import Skipped
    from refrag_components.index import AddReport

__all__ = ["index"]


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of text, Markdown, HTML and PDF files.")],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index.")] = Path(
        "refrag-index"
    ),
    model_name: ModelOption = DEFAULT_MODEL,
    passage_tokens: Annotated[int, typer.Option(min=1, help="Longest passage in tokens.")] = 256,
) -> None:
    """Index a folder, or bring its index up to date; may be stopped and run again."""
    from refrag_components.documents import find_files
    from refrag_components.index import RefragIndex

    n_files = sum(1 for _ in find_files(folder))
    model = load_model(model_name)
    with (
        RefragIndex.create(out, model, passage_tokens=passage_tokens) as target,
        _progress() as bar,
    ):
        task = bar.add_task("Indexing", total=n_files, passages=0)

        def advance(report: AddReport) -> None:
            done = report.added + report.updated + report.unchanged + len(report.skipped)
            bar.update(task, completed=done, passages=report.passages)

        report = target.add_folder(folder, progress=advance)
        info = target.info()
    _tell_skipped(report.skipped)
    output.out(
        f"Documents: {report.added} added, {report.updated} updated, {report.unchanged} unchanged, "
        f"{report.removed} removed, {len(report.skipped)} files skipped\n"
        f"{out}: {info.documents} documents, {info.passages} passages, "
        f"{decimal(info.size_bytes)}",
        highlight=False,
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files, {task.fields[passages]} passages"),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    )


def _tell_skipped(files: Iterable[Skipped]) -> None:
    """One line a reason, with its first file."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skipped in files:
        by_reason[skipped.reason].append(skipped.path)
    for reason, (first, *others) in by_reason.items():
        more = f" ({len(others)} more like it)" if others else ""
        say(f"Skipped: {first} {reason}{more}", "yellow")
