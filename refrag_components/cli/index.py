"""``refrag index``: documents to an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from refrag_components.cli.common import (
    DeviceOption,
    IndexModelOption,
    StoreOption,
    ThreadsOption,
    check_writable,
    errors,
    load_model_of,
    output,
    say,
)
from refrag_components.cli.index_progress import IndexProgress
from refrag_components.cli.skipped import tell_all, tell_counts, write_report
from refrag_components.text.extraction import TYPES
from refrag_components.vectors.codecs import CODECS, codec_named
from refrag_components.weights.lookup import bundled_names

if TYPE_CHECKING:
    from refrag_components.index import AddReport

__all__ = ["index"]


def _known_codec(name: str) -> str:
    try:
        return codec_named(name).name
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def index(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help=f"Folders or files: {TYPES}.")
    ],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="Folder of the index.")] = Path(
        "refrag-index"
    ),
    model_name: IndexModelOption = None,
    passage_tokens: Annotated[
        int,
        typer.Option(
            "--passage-tokens", metavar="N", min=1, help="Maximum length of a passage in tokens."
        ),
    ] = 256,
    store: StoreOption = None,
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            metavar="NAME",
            callback=_known_codec,
            autocompletion=lambda: [*CODECS],
            help=f"How the folder stores chunk vectors: {', '.join(CODECS)}, from the "
            "most bytes to the fewest. For your own store, put it into the URL: ?codec=int8",
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
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Index folders, or bring their index up to date; can be stopped and run again."""
    try:
        _index(
            folders,
            out,
            model_name=model_name,
            passage_tokens=passage_tokens,
            store=store,
            codec=codec,
            exclude=exclude or [],
            prune=prune,
            verbose=verbose,
            report_file=report_file,
            device=device,
            threads=threads,
        )
    except KeyboardInterrupt:
        say("Stopped; run the same command to continue", "yellow")
        raise typer.Exit(130) from None


def _index(
    folders: Sequence[Path],
    out: Path,
    *,
    model_name: str | None,
    passage_tokens: int,
    store: str | None,
    codec: str,
    exclude: Sequence[str],
    prune: bool,
    verbose: bool,
    report_file: Path | None,
    device: str | None,
    threads: int | None,
) -> None:
    from refrag_components.exceptions import DocumentError, StoreError
    from refrag_components.index import AddReport, RefragIndex, index_info
    from refrag_components.index.folder import META_FILE, check_folder
    from refrag_components.index.store import store_name
    from refrag_components.stores import open_store
    from refrag_components.text.documents import find_files, is_supported

    # Mistakes should not wait for the model.
    with errors.status("Looking for files"):
        files = [
            is_supported(path) for folder in folders for path in find_files(folder, exclude=exclude)
        ]
    if not any(files) and not (out / META_FILE).is_file():  # else what is gone is removed
        names = ", ".join(map(str, folders))
        raise DocumentError(f"{names} holds no file that can be read: {TYPES}")
    check_folder(out, codec=codec, passage_tokens=passage_tokens, store=store_name(store))
    check_writable(report_file)
    if store is not None:
        if codec != "float16":
            raise StoreError(f"a store's codec is part of its URL: --store '...?codec={codec}'")
        open_store(store).close()
    name, model = load_model_of(out, _anywhere(model_name), device=device, threads=threads)
    report = AddReport()
    with (
        RefragIndex.create(
            out,
            model,
            codec=codec,
            passage_tokens=passage_tokens,
            model_name=name,
            store=store,
        ) as target,
        IndexProgress(errors, len(files)) as bar,
    ):
        for folder in folders:
            bar.before = report
            report += target.add_folder(folder, progress=bar.show, exclude=exclude, prune=prune)
    _tell(report, every=verbose)
    if report_file is not None:
        write_report(report_file, [*report.skipped, *report.warnings])
    info = index_info(out)
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


def _tell(report: AddReport, *, every: bool) -> None:
    tell = tell_all if every else tell_counts
    tell("Skipped", report.skipped)
    tell("Doubtful", report.warnings)
    if report.skipped and not every:
        say("--verbose names every skipped file, --report FILE writes them down")
    for folder in report.absent:
        say(
            f"{folder} is not there, but its documents are still indexed; if it is gone for good, "
            "run again with --prune",
            "yellow",
        )
