"""Whether any of the passages that a search found has to do with the question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from refrag_components.index.types import Hit

__all__ = ["found_nothing", "match"]

_WORD = re.compile(r"\w+")
_COSINE_OF_WORDS = 0.5  # what all words of a question are worth in one passage
# Below it nothing was found, by base encoder: docs/documents.md says what that refuses and costs,
# benchmarks/unanswerable.py measures it. Other encoders have other cosines.
_LEAST = {"sentence-transformers/all-MiniLM-L6-v2": 0.48}


def match(question: str, hits: Sequence[Hit]) -> float:
    """How well the best passages fit a question: by meaning, and by words.

    Args:
        question: The question.
        hits: What the search found.

    Returns:
        The highest cosine, plus up to 0.5 for the share of the question's words, weighted by their
        lengths, that one passage has; -1 without hits.
    """
    if not hits:
        return -1.0
    words = _words(question)
    whole = sum(len(word) - 1 for word in words)
    shared = max(sum(len(word) - 1 for word in words & _words(hit.text)) for hit in hits)
    return max(hit.score for hit in hits) + _COSINE_OF_WORDS * shared / max(whole, 1)


def found_nothing(question: str, hits: Sequence[Hit], encoder: str) -> bool:
    """Whether no passage fits a question.

    Args:
        question: The question.
        hits: What the search found, five passages at best.
        encoder: The base encoder that made the search vectors, ``config.encoder`` of a model. Of
            one that was not measured, every passage is taken to fit.
    """
    return not hits or (encoder in _LEAST and match(question, hits) < _LEAST[encoder])


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
