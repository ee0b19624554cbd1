"""``refrag forget``: delete documents from an index for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refrag_components.cli.common import StoreOption, output, say

__all__ = ["forget"]


def forget(
    folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Folder that `refrag index` wrote.")
    ],
    document: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Document to delete; may be given several times."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Delete each document with a passage in which this stands, letter by letter; may "
            "be given several times."
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything", help="Delete all documents, all that its store holds, and the index."
        ),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Delete documents from an index and its store, and write over what they left in its files."""
    from refrag_components.index import forget as delete

    if not (document or text or everything):
        raise typer.BadParameter("name what to delete: --document, --text or --everything")
    removed = delete(
        folder, documents=document or (), texts=text or (), everything=everything, store=store
    )
    for path in removed:
        output.out(path, highlight=False)
    say(f"{len(removed)} deleted")
    left = [path for path in removed if Path(path).is_file()]
    if left and not everything:
        say(f"{left[0]} is still a file; delete it before its folder is indexed again", "yellow")
