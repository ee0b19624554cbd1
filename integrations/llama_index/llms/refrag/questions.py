"""Questions for which passages were retrieved, found again in a prompt.

The templates of query engines put context, instructions and question into one message. A policy
that compares chunks with all of that expands the wrong ones, so the question is separated from the
rest.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict

__all__ = ["find_question", "remember_question"]

_MAX_QUESTIONS = 1000  # the oldest are forgotten first

_questions: OrderedDict[str, None] = OrderedDict()
_lock = threading.Lock()


def remember_question(text: str) -> None:
    """Remembers the query of a retriever or postprocessor."""
    question = text.strip()
    if not question:
        return
    with _lock:
        _questions[question] = None
        _questions.move_to_end(question)
        if len(_questions) > _MAX_QUESTIONS:
            _questions.popitem(last=False)


def find_question(text: str) -> str | None:
    """The longest remembered question that a text contains as whole words, if any."""
    with _lock:
        found = [question for question in _questions if _holds(text, question)]
    return max(found, key=len, default=None)


def _holds(text: str, question: str) -> bool:
    words = rf"(?<!\w){re.escape(question)}(?!\w)"
    return question in text and re.search(words, text) is not None
