"""``refrag show``: a document as it was read, or as an index holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refrag_components.cli.common import output, say, shown
from refrag_components.exceptions import DocumentError

__all__ = ["show"]


def show(
    place: Annotated[
        Path,
        typer.Argument(metavar="FILE|INDEX", help="A file, or a folder that `refrag index` wrote."),
    ],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="A document of the index, as `refrag info --documents` lists it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the text of a file as it is read, or the passages of a document in an index."""
    from refrag_components.index.folder import META_FILE

    if path is not None:
        _show_passages(place, path)
    elif (place / META_FILE).is_file():
        raise typer.BadParameter(
            f"name a document of {place}; refrag info {place} --documents lists them",
            param_hint="PATH",
        )
    else:
        _show_file(place)


def _show_file(file: Path) -> None:
    from refrag_components.text.documents import Skipped, load_document

    if not file.exists():
        raise DocumentError(f"{file} does not exist; name a file, or an index and a document of it")
    document = load_document(file)
    if isinstance(document, Skipped):
        raise DocumentError(f"{document.path} {document.reason}")
    if document.title:
        say(f"Title: {shown(document.title)}")
    if document.warning:
        say(f"Doubtful: {file} {document.warning}", "yellow")
    output.out(shown(document.text), highlight=False)


def _show_passages(folder: Path, path: str) -> None:
    from refrag_components.index.folder import index_info, indexed_passages

    passages = indexed_passages(folder, path)
    if passages is None:
        raise DocumentError(
            f"{folder} holds no document {path}; refrag info {folder} --documents lists them"
        )
    k = index_info(folder).chunk_size
    for number, (text, tokens) in enumerate(passages, start=1):
        say(f"--- passage {number} of {len(passages)}: {tokens} tokens, {-(-tokens // k)} chunks")
        output.out(shown(text), highlight=False)
