"""Whether a chain of the user's compresses what it retrieves."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from refrag_components.cli.common import output, say, shown
from refrag_components.exceptions import RefragError

__all__ = ["check_chain"]

_LISTENED_TO = ("refrag_components.prompts.conversation", "refrag_components.generation.preparing")
_ANSWER = 300  # characters that are shown
_NOTHING = (
    "no model of this library was asked; is ChatRefrag or RefragLLM what the chain answers with?"
)


def check_chain(name: str, question: str) -> None:
    """Asks a chain, and tells of each prompt which passages came through as they were retrieved.

    Args:
        name: Where it is, as in ``app.py:chain`` or ``package.module:chain``.
        question: What to ask; a JSON object becomes a dict.

    Raises:
        RefragError: If there is no such chain, or no model of this library was asked.
    """
    chain = _imported(name)
    heard = _Listener()
    loggers = [logging.getLogger(logger) for logger in _LISTENED_TO]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(heard)
        logger.setLevel(logging.DEBUG)
    try:
        answer = _ask(chain, _input(question))
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(heard)
            logger.setLevel(level)
    if not heard.lines:
        raise RefragError(_NOTHING)
    for line in heard.lines:
        output.out(shown(line), highlight=False)
    text = " ".join(str(getattr(answer, "content", answer)).split())
    say(f"Answer: {shown(text[:_ANSWER])}")


class _Listener(logging.Handler):
    """Keeps what is told at the lowest level, of any thread."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.DEBUG:
            self.lines.append(record.getMessage())


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    path = Path(module)
    if path.suffix == ".py":
        sys.path.insert(0, str(path.resolve().parent))
        module = path.stem
    else:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (AttributeError, ModuleNotFoundError) as error:
        raise RefragError(f"there is no {name}: {error}") from error
    return found


def _input(question: str) -> str | dict[str, Any]:
    try:
        value = json.loads(question)
    except ValueError:
        return question
    return value if isinstance(value, dict) else question


def _ask(chain: Any, question: str | dict[str, Any]) -> Any:
    """Asks in the way of its framework."""
    for method in ("invoke", "query", "chat"):  # LangChain, then LlamaIndex' two kinds of engines
        if callable(ask := getattr(chain, method, None)):
            return ask(question)
    if callable(chain):
        return chain(question)
    raise RefragError(f"{type(chain).__name__} has no invoke, query or chat, so it cannot be asked")
