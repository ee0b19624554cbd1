"""Tokens are counted as another model counts them."""

from __future__ import annotations

import sys

import pytest

from refrag_components.exceptions import MissingExtraError
from refrag_components.excerpts import Excerpter
from refrag_components.excerpts.counting import tiktoken_counter
from refrag_components.modeling import RefragModel

tiktoken = pytest.importorskip("tiktoken")


@pytest.fixture
def by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoding whose tokens are bytes; the real ones would be downloaded."""
    ranks = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "list_encoding_names", lambda: ["bytes"])
    monkeypatch.setattr(tiktoken, "get_encoding", {"bytes": encoding}.__getitem__)
    monkeypatch.setattr(tiktoken, "encoding_for_model", {"a-model": encoding}.__getitem__)


@pytest.mark.usefixtures("by_bytes")
def test_a_budget_is_in_the_tokens_of_the_model_that_reads(tiny_model: RefragModel) -> None:
    for name in ("bytes", "a-model"):
        count = tiktoken_counter(name)
        assert count(["ab", "", "\u00e9"]) == [2, 0, 2]
        passage = "The harbour was dug. <|endoftext|> Ships lie there. Rain fell."
        (found,) = Excerpter(tiny_model, budget=20, count_tokens=count).extract("Why?", [passage])
        assert 0 < len(found.text.encode()) <= 20
    with pytest.raises(ValueError, match="no model or encoding 'another'; encodings are bytes"):
        tiktoken_counter("another")


def test_without_tiktoken_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(MissingExtraError, match=r"refrag-components\[tiktoken\]"):
        tiktoken_counter("gpt-4o")
