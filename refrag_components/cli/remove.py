"""``refrag remove``: take documents out of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refrag_components.cli.common import StoreOption, output, say
from refrag_components.exceptions import DocumentError

__all__ = ["remove"]


def remove(
    folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Folder that `refrag index` wrote.")
    ],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Documents, or folders of them, as `refrag info --documents`."
        ),
    ],
    store: StoreOption = None,
) -> None:
    """Take documents out of an index; files that stay come back when it is brought up to date."""
    from refrag_components.index import forget

    removed = forget(folder, documents=paths, store=store)
    if not removed:
        raise DocumentError(
            f"{folder} holds no document {' or '.join(paths)}; refrag info {folder} --documents "
            "lists them"
        )
    for path in removed:
        output.out(path, highlight=False)
    say(f"{len(removed)} removed")
