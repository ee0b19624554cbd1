"""The policies that the library has, by name; lists of them are made from here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DEFAULT_POLICY", "EXPANDS_FIRST", "POLICIES"]

#: What models choose by where nothing else is asked for: ``learned-query`` where the checkpoint
#: carries it, ``late-interaction`` elsewhere.
DEFAULT_POLICY = "auto"

#: What each policy expands first.
EXPANDS_FIRST: Mapping[str, str] = MappingProxyType(
    {
        "all": "every chunk",
        "late-interaction": "the passages that match the question's parts, each from where it "
        "matches",
        "learned": "chunks that a trained network found to pay",
        "learned-query": "chunks that a trained network expects to hold the answer",
        "none": "no chunk",
        "perplexity": "chunks that surprise the decoder",
        "random": "any, the same ones each time",
        "similarity": "chunks whose vector resembles the question's",
    }
)

POLICIES: tuple[str, ...] = tuple(EXPANDS_FIRST)
