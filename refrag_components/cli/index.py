"""``refrag index``: documents to an index."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
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
from refrag_components.text.extraction import TYPES
from refrag_components.vectors.codec_names import Codec
from refrag_components.weights.lookup import bundled_names

if TYPE_CHECKING:
    from refrag_components.index import AddReport
    from refrag_components.text.documents import Skipped

__all__ = ["index"]


def index(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help=f"Folders or files: {TYPES}.")
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
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out files or folders with such a name or path, as in '*.log' or 'drafts'; "
            "may be given several times. Hidden files and what .gitignore names are left out too.",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove documents also of folders whose drive may not be mounted."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Name every file that is skipped, with the reason.")
    ] = False,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the skipped and doubtful files to this file, one per line: path, tab, "
            "reason.",
        ),
    ] = None,
) -> None:
    """Index folders, or bring their index up to date; can be stopped and run again."""
    from refrag_components.exceptions import DocumentError, StoreError
    from refrag_components.index import AddReport, RefragIndex, index_info
    from refrag_components.index.folder import META_FILE, check_folder
    from refrag_components.index.store import store_name
    from refrag_components.stores import open_store
    from refrag_components.text.documents import find_files, is_supported

    # Mistakes should not wait for the model.
    patterns = exclude or []
    files = [
        is_supported(path) for folder in folders for path in find_files(folder, exclude=patterns)
    ]
    if not any(files) and not (out / META_FILE).is_file():  # else what is gone is removed
        names = ", ".join(map(str, folders))
        raise DocumentError(f"{names} holds no file that can be read: {TYPES}")
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

        report = AddReport()

        def advance(now: AddReport) -> None:
            whole = report + now
            done = whole.added + whole.updated + whole.unchanged + len(whole.skipped)
            bar.update(task, completed=done, passages=whole.passages)

        try:
            for folder in folders:
                report += target.add_folder(folder, progress=advance, exclude=patterns, prune=prune)
        except KeyboardInterrupt:
            bar.stop()
            say("Stopped; run the same command to continue", "yellow")
            raise typer.Exit(130) from None
    info = index_info(out)
    _tell(report, every=verbose)
    if report_file is not None:
        _write_report(report_file, [*report.skipped, *report.warnings])
    output.out(
        f"Documents: {report.added} added, {report.updated} updated, {report.unchanged} unchanged, "
        f"{report.removed} removed, {_count(len(report.skipped), 'file')} skipped"
        + (f", {len(report.warnings)} doubtful" if report.warnings else "")
        + "\n"
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


def _tell(report: AddReport, *, every: bool) -> None:
    for title, files in (("Skipped", report.skipped), ("Doubtful", report.warnings)):
        if every:
            for file in files:
                say(f"{title}: {file.path} {file.reason}", "yellow")
        else:
            _tell_reasons(title, files)
    if report.skipped and not every:
        say("--verbose names every skipped file")
    for folder in report.absent:
        say(
            f"{folder} is not there, but its documents are still indexed; if it is gone for good, "
            "run again with --prune",
            "yellow",
        )


def _tell_reasons(title: str, files: Iterable[Skipped]) -> None:
    """One line per reason, with its first file."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_reason[file.reason].append(file.path)
    for reason, (first, *others) in by_reason.items():
        more = f" ({len(others)} more like it)" if others else ""
        say(f"{title}: {first} {reason}{more}", "yellow")


def _write_report(path: Path, files: Sequence[Skipped]) -> None:
    lines = (f"{file.path}\t{' '.join(file.reason.split())}\n" for file in files)
    path.write_text("".join(lines), encoding="utf-8", errors="replace")
