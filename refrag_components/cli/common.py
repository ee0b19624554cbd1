"""What the subcommands share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["DEFAULT_MODEL", "ModelOption", "errors", "load_model", "output"]

DEFAULT_MODEL = "refrag-smollm2-135m"

ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, checkpoint folder or Hugging Face hub id.")
]

output = Console()
errors = Console(stderr=True)


def load_model(name: str) -> RefragModel:
    """Loads a checkpoint while a spinner shows that something happens."""
    with errors.status(f"Loading {name}"):
        from transformers.utils.logging import disable_progress_bar

        from refrag_components.modeling import RefragModel

        disable_progress_bar()
        return RefragModel.from_pretrained(name)


def show_progress_messages() -> None:
    """Shows what the library logs, such as downloads, on the standard error stream."""
    handler = RichHandler(
        console=errors, show_time=False, show_level=False, show_path=False, highlighter=None
    )
    logger = logging.getLogger("refrag_components")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
