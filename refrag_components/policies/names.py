"""The names of the library's policies; lists of them are made from here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DEFAULT_POLICY", "EXPANDS_FIRST", "POLICIES"]

#: The policy of models that name none: ``learned-query`` if the checkpoint carries it, else
#: ``late-interaction``.
DEFAULT_POLICY = "auto"

#: What each policy expands first.
EXPANDS_FIRST: Mapping[str, str] = MappingProxyType(
    {
        "all": "every chunk",
        "late-interaction": "the passages that match the question's parts, each from where it "
        "matches",
        "learned": "chunks that a trained network found worth expanding",
        "learned-query": "chunks that a trained network expects to hold the answer",
        "none": "no chunk",
        "perplexity": "chunks that surprise the decoder",
        "random": "any, the same ones each time",
        "similarity": "chunks whose vector resembles the question's",
    }
)

POLICIES: tuple[str, ...] = tuple(EXPANDS_FIRST)
