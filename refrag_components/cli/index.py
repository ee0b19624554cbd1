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
    IndexModelOption,
    StoreOption,
    errors,
    load_model_of,
    output,
    say,
)
from refrag_components.vectors.codec_names import Codec
from refrag_components.weights.lookup import bundled_names

if TYPE_CHECKING:
    from refrag_components.index import AddReport
    from refrag_components.text.documents import Skipped

__all__ = ["index"]


def index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of text, Markdown, HTML and PDF files.")
    ],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index.")] = Path(
        "refrag-index"
    ),
    model_name: IndexModelOption = None,
    passage_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of a passage in tokens.")
    ] = 256,
    store: StoreOption = None,
    codec: Annotated[
        Codec,
        typer.Option(
            help="How the folder stores chunk vectors: 4, 2, 1 or half a byte per value. For your "
            "own store, put it into the URL: ?codec=int8"
        ),
    ] = "float16",
) -> None:
    """Index a folder, or bring its index up to date; can be stopped and run again."""
    from refrag_components.exceptions import DocumentError, StoreError
    from refrag_components.index import RefragIndex, index_info
    from refrag_components.index.folder import check_folder
    from refrag_components.index.store import store_name
    from refrag_components.stores import open_store
    from refrag_components.text.documents import TYPES, find_files, is_supported

    # Mistakes should not wait for the model.
    files = [is_supported(path) for path in find_files(folder)]
    if not any(files):
        raise DocumentError(f"{folder} holds no file that can be read: {TYPES}")
    check_folder(out, codec=codec, passage_tokens=passage_tokens, store=store_name(store))
    if store is not None:
        if codec != "float16":
            raise StoreError(f"a store's codec is part of its URL: --store '...?codec={codec}'")
        open_store(store).close()
    name, model = load_model_of(out, _anywhere(model_name))
    with (
        RefragIndex.create(
            out,
            model,
            codec=codec,
            passage_tokens=passage_tokens,
            model_name=name,
            store=store,
        ) as target,
        _progress() as bar,
    ):
        task = bar.add_task("Indexing", total=len(files), passages=0)

        def advance(report: AddReport) -> None:
            done = report.added + report.updated + report.unchanged + len(report.skipped)
            bar.update(task, completed=done, passages=report.passages)

        report = target.add_folder(folder, progress=advance)
    info = index_info(out)
    _tell_skipped(report.skipped)
    output.out(
        f"Documents: {report.added} added, {report.updated} updated, {report.unchanged} unchanged, "
        f"{report.removed} removed, {_count(len(report.skipped), 'file')} skipped\n"
        f"{out}: {_count(info.documents, 'document')}, {_count(info.passages, 'passage')}, "
        f"{_count(info.chunks, 'chunk')}, {_count(info.tokens, 'token')}, "
        f"{decimal(info.size_bytes)}",
        highlight=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _anywhere(name: str | None) -> str | None:
    """A model's name that means the same from whatever folder the index is opened."""
    if name is None:
        return None
    local = Path(name)
    return str(local.resolve()) if local.is_dir() and name not in bundled_names() else name


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
    """One line per reason, with its first file."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skipped in files:
        by_reason[skipped.reason].append(skipped.path)
    for reason, (first, *others) in by_reason.items():
        more = f" ({len(others)} more like it)" if others else ""
        say(f"Skipped: {first} {reason}{more}", "yellow")
