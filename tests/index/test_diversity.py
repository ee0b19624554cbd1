from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from refrag_components.index import RefragIndex
from refrag_components.index.diversity import (
    MarginalRelevance,
    merge_collections,
    merge_diverse,
    most_diverse,
)

# Two passages that say the same, one that says something else, and one about nothing of the kind.
PASSAGES = np.array([[0.9, 0.44, 0.0], [0.9, 0.43, 0.06], [0.8, 0.0, 0.6], [0.0, 1.0, 0.0]])
QUESTION = np.array([1.0, 0.0, 0.0])


def test_without_diversity_the_most_similar_come_first() -> None:
    assert most_diverse(QUESTION, PASSAGES, 3, 0.0) == [0, 1, 2]


def test_a_passage_like_one_before_it_waits() -> None:
    assert most_diverse(QUESTION, PASSAGES, 2, 0.4) == [0, 2]
    assert sorted(most_diverse(QUESTION, PASSAGES, 9, 0.4)) == [0, 1, 2, 3]


def test_an_index_returns_passages_that_differ(index: RefragIndex) -> None:
    copies = [f"the harbour was dug in 1907 {i}" for i in range(3)]
    index.add_texts([*copies, "rain fell for three days"])
    question = "when was the harbour dug"
    similar = [hit.text for hit in index.search(question, 2)]
    assert {*similar} < {*copies}
    first, second = index.search(question, 2, diversity=0.8)
    assert first.text == similar[0]
    assert second.text == "rain fell for three days"
    assert first.score > second.score
    with pytest.raises(ValueError, match="from 0 to 1"):
        index.search(question, 2, diversity=2)


def test_a_diversity_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        most_diverse(QUESTION, PASSAGES, 2, 1.5)


def test_each_collection_has_its_share_and_no_text_comes_twice() -> None:
    found = [["a", "b", "c", "d", "e", "f"], ["x", " b ", "y", "z"]]
    merged = merge_collections(found, 6, [2, 1])
    texts = [found[i][j].strip() for i, j in merged]
    assert texts == ["a", "x", "b", "c", "y", "d"]
    assert merge_collections(found, 99, [1, 1])[-1] == (0, 5)  # what one lacks the others fill
    assert len(merge_collections(found, 99, [1, 1])) == 9


def test_within_a_collection_passages_differ_from_those_of_all() -> None:
    found = [["first", "other"], ["copy", "else"]]
    vectors = PASSAGES[[0, 3, 1, 2]]
    relevance = MarginalRelevance(QUESTION, vectors, 0.4)
    assert merge_collections(found, 2, [1, 1], relevance) == [(0, 0), (1, 1)]


def test_a_collection_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="each of the 2 collections"):
        merge_collections([["a"], ["b"]], 2, [1, 0])


def test_vectors_are_made_only_to_tell_texts_apart() -> None:
    known = dict(zip(["first", "copy", "else", "other"], PASSAGES, strict=True))

    def search_vectors(texts: Sequence[str]) -> np.ndarray:
        return np.stack([QUESTION if text == "asked" else known[text] for text in texts])

    def none(texts: Sequence[str]) -> np.ndarray:
        raise AssertionError("vectors were made")

    found = [["first", "other"], ["copy", "else"]]
    alike = merge_diverse("asked", found, 2, shares=None, diversity=0, search_vectors=none)
    assert alike == [(0, 0), (1, 0)]
    assert merge_diverse(
        "asked", found, 2, shares=None, diversity=0.4, search_vectors=search_vectors
    ) == [(0, 0), (1, 1)]
    nothing: list[list[str]] = [[], []]
    assert merge_diverse("?", nothing, 2, shares=[1, 2], diversity=1, search_vectors=none) == []
    with pytest.raises(ValueError, match="each of the 2 collections"):
        merge_diverse("asked", found, 2, shares=[], diversity=0, search_vectors=none)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            merge_diverse("?", nothing, 2, shares=None, diversity=wrong, search_vectors=none)
