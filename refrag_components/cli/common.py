"""What the subcommands share."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = [
    "DEFAULT_MODEL",
    "ModelOption",
    "errors",
    "load_model",
    "output",
    "say",
    "set_up",
]

DEFAULT_MODEL = "refrag-smollm2-135m"

ModelOption = Annotated[
    str, typer.Option("--model", help="Bundled name, checkpoint folder or Hugging Face hub id.")
]

output = Console()
errors = Console(stderr=True)

_logger = logging.getLogger("refrag_components")


def say(text: str, style: str = "dim") -> None:
    """Writes a line beside the result, to the standard error stream."""
    errors.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def load_model(name: str) -> RefragModel:
    """Loads a checkpoint for inference."""
    say(f"Loading {name}")
    from transformers.utils.logging import disable_progress_bar

    from refrag_components.modeling import RefragModel

    disable_progress_bar()
    return RefragModel.from_pretrained(name)


class _LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "yellow" if record.levelno >= logging.WARNING else "dim")


def set_up() -> None:
    """Shows what the library logs, such as downloads, and silences transformers."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    _logger.handlers = [_LogHandler()]
    _logger.setLevel(logging.INFO)
