"""``refrag demo``: what the library does, on text that is on every machine."""

from __future__ import annotations

from rich.console import Console

from refrag_components.cli.common import DEFAULT_MODEL, ModelOption, output
from refrag_components.exceptions import RefragError

__all__ = ["demo"]

_LOG_WIDTH = 100


def demo(model_name: ModelOption = DEFAULT_MODEL) -> None:
    """Ask Python's own reference, plain and compressed, side by side."""
    try:
        from refrag_demo.demo import run_demo
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("langchain_core"):
            raise
        raise RefragError(
            "the demo runs in LangChain, which is not installed; "
            'install it with: pip install "refrag-components[langchain]"'
        ) from error
    width = None if output.is_terminal else _LOG_WIDTH
    run_demo(model_name, Console(width=width, highlight=False, markup=False))
