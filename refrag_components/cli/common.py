"""What the subcommands share."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from refrag_components.exceptions import IndexFolderError, RefragError, UnknownModelError
from refrag_components.weights.lookup import DEFAULT_MODEL, bundled_names

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = [
    "DEFAULT_MODEL",
    "BfloatOption",
    "DeviceOption",
    "IndexModelOption",
    "ModelOption",
    "StoreOption",
    "ThreadsOption",
    "check_writable",
    "errors",
    "load_model",
    "load_model_of",
    "output",
    "say",
    "set_up",
    "shown",
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

DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where the model runs: cpu, cuda, cuda:1, mps.",
        show_default="CUDA if available, else CPU",
    ),
]

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="Processor threads to compute with.",
        show_default="one per core",
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
        help="Where chunk vectors of this index, and no other, are kept: a path, or a URL such as "
        "postgresql://me@host/db, qdrant://host/notes or lancedb:///path. The index remembers it "
        "without its password; give that in the URL again, or as PGPASSWORD or QDRANT_API_KEY.",
        show_default="the index's store, else its folder",
    ),
]

output = Console()
errors = Console(stderr=True)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # which terminals follow
_logger = logging.getLogger("refrag_components")


def say(text: str, style: str = "dim") -> None:
    """Writes a line to the standard error stream, apart from the result."""
    errors.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def shown(text: str) -> str:
    """Text that a terminal does not take for commands."""
    return _CONTROL.sub("\ufffd", text)


def check_writable(file: Path | None) -> None:
    """Refuses a file to write that is in no folder, before it would be written.

    Raises:
        RefragError: If there is no such folder.
    """
    if file is not None and not file.absolute().parent.is_dir():
        raise RefragError(f"{file.parent} is not a folder; make it first")


def load_model(
    name: str,
    *,
    bfloat16: bool = False,
    chunk_size: int | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> RefragModel:
    """Loads a checkpoint for inference, optionally at another k or, even on a CPU, in bfloat16.

    A terminal shows that it is being loaded, and how far a download is.

    Args:
        name: Bundled name, folder or hub id.
        bfloat16: Compute in bfloat16.
        chunk_size: Another k.
        device: As PyTorch names it; None for CUDA if there is one, else the CPU.
        threads: For computing on a processor; None for PyTorch's own choice.

    Raises:
        RefragError: If there is no such device.
    """
    loading = f"Loading {name}"
    if not errors.is_terminal:
        say(loading)
    with errors.status(loading):
        import torch

        from refrag_components.modeling import RefragModel

        _check_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
    _fetch_bases(name)  # with bars of its own
    with errors.status(loading):
        dtype = torch.bfloat16 if bfloat16 else None
        return RefragModel.from_pretrained(name, device=device, dtype=dtype, chunk_size=chunk_size)


def _check_device(name: str | None) -> None:
    if name is None:
        return
    import torch

    try:
        torch.zeros(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RefragError(f"there is no device {name!r} for PyTorch here: {reason}") from error


def _fetch_bases(name: str) -> None:
    """Fetches what a checkpoint is built from, if it is sound."""
    from refrag_components.modeling.checkpoint_files import check_files
    from refrag_components.modeling.config import RefragConfig
    from refrag_components.weights.lookup import base_folder, checkpoint_folder

    folder = checkpoint_folder(name)
    config = RefragConfig.from_folder(folder)
    check_files(folder, config)
    for part, base in (("decoder", config.decoder), ("encoder", config.encoder)):
        if not (folder / part).is_dir():
            base_folder(base)


def load_model_of(
    folder: Path,
    requested: str | None,
    *,
    device: str | None = None,
    threads: int | None = None,
) -> tuple[str, RefragModel]:
    """Loads the model to use with an index folder.

    Args:
        folder: The index; need not exist.
        requested: The requested model; None for the index's model, or else the default.
        device: As for ``load_model``.
        threads: As for ``load_model``.

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
        model = load_model(requested, device=device, threads=threads)
        if requested == recorded:
            record_agreement(folder, "model", recorded)
        return requested, model
    if recorded is None:
        return DEFAULT_MODEL, load_model(DEFAULT_MODEL, device=device, threads=threads)
    if recorded not in bundled_names() and not has_agreed(folder, "model", recorded):
        msg = (
            f"{folder} was made with the model {recorded}, which nobody has named on this machine; "
            f"if you trust it, name it once with --model {recorded}"
        )
        raise IndexFolderError(msg)
    try:
        return recorded, load_model(recorded, device=device, threads=threads)
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
