"""What the subcommands share."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from refrag_components.exceptions import IndexFolderError, UnknownModelError
from refrag_components.weights.lookup import DEFAULT_MODEL, bundled_names

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = [
    "DEFAULT_MODEL",
    "BfloatOption",
    "IndexModelOption",
    "ModelOption",
    "StoreOption",
    "errors",
    "load_model",
    "load_model_of",
    "output",
    "say",
    "set_up",
]

ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, checkpoint folder or Hugging Face hub id.")
]

BfloatOption = Annotated[
    bool,
    typer.Option(
        "--bf16",
        help="Compute in bfloat16: several times faster on CPUs that support it (AMX).",
    ),
]

IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Bundled name, checkpoint folder or Hugging Face hub id.",
        show_default=f"the index's model, else {DEFAULT_MODEL}",
    ),
]

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where chunk vectors of this index, and no other, are kept: a path, postgresql://user@host/"
        "database, qdrant://host:6333/collection, lancedb:///path, ... The index remembers it "
        "without its password; give that in the URL again, or as PGPASSWORD or QDRANT_API_KEY.",
        show_default="the index's store, else its folder",
    ),
]

output = Console()
errors = Console(stderr=True)

_logger = logging.getLogger("refrag_components")


def say(text: str, style: str = "dim") -> None:
    """Writes a line to the standard error stream, apart from the result."""
    errors.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def load_model(name: str, *, bfloat16: bool = False, chunk_size: int | None = None) -> RefragModel:
    """Loads a checkpoint for inference, optionally at another k or, even on a CPU, in bfloat16."""
    say(f"Loading {name}")
    import torch

    from refrag_components.modeling import RefragModel

    dtype = torch.bfloat16 if bfloat16 else None
    return RefragModel.from_pretrained(name, dtype=dtype, chunk_size=chunk_size)


def load_model_of(folder: Path, requested: str | None) -> tuple[str, RefragModel]:
    """Loads the model to use with an index folder.

    Args:
        folder: The index; need not exist.
        requested: The requested model; None for the index's model, or else the default.

    Returns:
        The model's name and the model.

    Raises:
        IndexFolderError: If no model is requested and the index names one that does not come with
            the library and that nobody on this machine has named for it.
    """
    from refrag_components.index.consent import has_agreed, record_agreement
    from refrag_components.index.folder import META_FILE, Meta

    recorded = Meta.read(folder).model if (folder / META_FILE).is_file() else None
    if requested is not None:
        model = load_model(requested)
        if requested == recorded:
            record_agreement(folder, "model", recorded)
        return requested, model
    if recorded is None:
        return DEFAULT_MODEL, load_model(DEFAULT_MODEL)
    if recorded not in bundled_names() and not has_agreed(folder, "model", recorded):
        msg = (
            f"{folder} was made with the model {recorded}, which nobody has named on this machine; "
            f"if you trust it, name it once with --model {recorded}"
        )
        raise IndexFolderError(msg)
    try:
        return recorded, load_model(recorded)
    except UnknownModelError as error:
        msg = (
            f"{folder} was made with {recorded}, which cannot be loaded; if it has moved, name its "
        )
        raise UnknownModelError(f"{msg}new location with --model ({error})") from error


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "yellow" if record.levelno >= logging.WARNING else "dim")


def _tell_version(requested: bool) -> None:
    if requested:
        output.out(f"refrag-components {version('refrag-components')}", highlight=False)
        raise typer.Exit


def set_up(
    tell_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    """Shows what the library logs, such as downloads, and silences other libraries."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal can show every character
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    _logger.handlers = [_LogHandler()]
    _logger.setLevel(logging.INFO)
    # It warns a lot about PDFs that it can read; why one cannot be read is reported anyway.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
