"""Positions of a layout: tokens, chunk embeddings on any rung, and what is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.engines.layout import (
    Layout,
    PassageSegment,
    TextSegment,
    passage_segments,
    token_positions,
)
from refrag_components.modeling import RefragModel
from refrag_components.vectors import ChunkVectors
from tests.engines.layouts import segment
from tests.tiny import TEXT

K = 4


def passage(n_tokens: int) -> ChunkVectors:
    n_chunks = -(-n_tokens // K)
    return ChunkVectors(np.ones((n_chunks, 2), np.float32), np.arange(n_tokens), K, "beef")


def test_a_layout_cannot_begin_with_a_chunk_embedding(tiny_model: RefragModel) -> None:
    with pytest.raises(ValueError, match="begin with a token"):
        Layout((segment(tiny_model, TEXT[0], 0.0),))


def test_a_layout_may_begin_where_chunks_were_dropped() -> None:
    expanded = np.array([False, True, False])
    layout = Layout((PassageSegment(passage(10), expanded, 0),))
    assert (layout.n_positions, layout.n_expanded, layout.n_compressed) == (4, 1, 0)
    with pytest.raises(ValueError, match="begin with a token"):
        Layout((PassageSegment(passage(10), expanded),))


def test_neighbouring_chunks_share_an_embedding_on_a_coarser_rung() -> None:
    expanded = np.array([False, False, True, True, False])
    segment = PassageSegment(passage(19), expanded, 2 * K)
    assert segment.positions.tolist() == [1, 0, 4, 4, 1]
    assert (segment.n_positions, segment.n_compressed) == (10, 3)


def test_a_rung_is_a_multiple_of_the_chunk_size() -> None:
    for rung in (6, -4):
        with pytest.raises(ValueError, match="multiple of the chunk size 4"):
            PassageSegment(passage(8), np.zeros(2, bool), rung)


def test_a_group_of_chunks_is_not_cut() -> None:
    with pytest.raises(ValueError, match="2 chunks expand together"):
        PassageSegment(passage(19), np.array([False, True, False, False, False]), 2 * K)


def test_a_chunk_embedding_stands_at_the_first_token_under_it() -> None:
    lengths, expanded = np.array([2, 3, 4, 1]), np.array([True, False, False, False])
    positions, rows = np.array([2, 1, 0, 1]), np.array([7, 7, 7, 8])
    read, index = token_positions(lengths, expanded, positions, rows)
    assert np.flatnonzero(read).tolist() == [0, 1, 2, 9]
    assert index[read].tolist() == [-1, -1, 7, 8]


@given(
    st.lists(st.booleans(), min_size=1, max_size=6),
    st.integers(1, K),
    st.sampled_from([0, 1, 2, 4]),
)
def test_every_chunk_is_read_as_text_or_in_an_embedding_or_dropped(
    groups: list[bool], last: int, group: int
) -> None:
    """The text before it is a layout's, so that anything may follow."""
    vectors = passage((len(groups) * max(group, 1) - 1) * K + last)
    expanded = np.repeat(groups, max(group, 1))
    own = PassageSegment(vectors, expanded, group * K)
    layout = Layout((TextSegment(np.array([1])), own))
    text = int(vectors.chunk_lengths[expanded].sum())
    embeddings = groups.count(False) if group else 0
    assert layout.context_positions == text + embeddings == layout.n_positions - 1
    assert layout.n_compressed == (int((~expanded).sum()) if group else 0)
    assert layout.context_tokens == vectors.n_tokens


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0, K, 2 * K]), st.sets(st.integers(0, 3))),
        max_size=5,
    )
)
def test_many_segments_are_what_each_would_be_by_itself(
    drawn: list[tuple[int, int, set[int]]],
) -> None:
    passages = [passage(n_tokens) for n_tokens, _, _ in drawn]
    masks = [
        np.array([chunk // 2 in pairs for chunk in range(each.n_chunks)], dtype=bool)
        for each, (_, _, pairs) in zip(passages, drawn, strict=True)
    ]
    rungs = [rung for _, rung, _ in drawn]
    found = passage_segments(
        passages, np.concatenate([np.zeros(0, bool), *masks]), np.array(rungs, dtype=np.int64)
    )
    assert len(found) == len(drawn)
    for made, each, mask, rung in zip(found, passages, masks, rungs, strict=True):
        alone = PassageSegment(each, mask, rung)
        assert made.vectors is each
        assert made.positions.tolist() == alone.positions.tolist()
        assert made.expanded.tolist() == alone.expanded.tolist()
        for name in ("n_positions", "n_expanded", "n_compressed", "tokens_per_embedding"):
            assert getattr(made, name) == getattr(alone, name)


def test_the_segments_of_many_passages_are_checked() -> None:
    with pytest.raises(ValueError, match="2 chunks expand together"):
        passage_segments([passage(8)], np.array([True, False]), np.array([2 * K]))
    with pytest.raises(ValueError, match="one value per chunk"):
        passage_segments([passage(8)], np.array([True]), np.array([K]))
