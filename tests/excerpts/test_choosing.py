"""The best pieces that fit are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.excerpts.choosing import best_pieces, falling_point


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 9)), max_size=12),
    st.integers(0, 40),
)
def test_nothing_better_is_left_out_that_would_fit(
    pieces: list[tuple[int, bool, int]], limit: int
) -> None:
    scores, kept, tokens = (np.array([p[i] for p in pieces]) for i in range(3))
    alone = np.full(len(pieces), -1)
    found = best_pieces(scores, kept.astype(bool), tokens, alone, limit)
    assert all(len(together) == 1 for together in found)
    chosen = [i for (i,) in found]
    assert len({*chosen}) == len(chosen)
    must = {i for i, p in enumerate(pieces) if p[1]}
    assert must <= {*chosen}
    used = sum(pieces[i][2] for i in chosen)
    free = sum(pieces[i][2] for i in must)
    assert used <= max(limit, free)
    for i in {*range(len(pieces))} - {*chosen}:
        better = [j for j in chosen if j in must or (-pieces[j][0], j) < (-pieces[i][0], i)]
        assert sum(pieces[j][2] for j in better) + pieces[i][2] > limit


def test_a_head_is_read_with_the_first_that_needs_it() -> None:
    scores, kept = np.array([9.0, 1.0, 2.0, 3.0]), np.zeros(4, dtype=bool)
    heads, tokens = np.array([-1, 0, 0, -1]), np.array([4, 2, 2, 3])
    assert best_pieces(scores, kept, tokens, heads, 11) == [(3,), (0, 2), (1,)]
    # The head by itself is worth nothing, and a row has to pay for it.
    assert best_pieces(scores, kept, tokens, heads, 5) == [(3,)]
    assert best_pieces(scores, kept, tokens, heads, 6) == [(3,)]
    kept[0] = True
    assert best_pieces(scores, kept, tokens, heads, 0) == [(0,)]


def test_scores_are_parted_where_they_fall() -> None:
    assert falling_point([0.1, 0.9, 0.15, 0.85, 0.12]) == 0.85
    assert falling_point([0.5]) == 0.5
    assert falling_point([0.5, 0.5]) == 0.5


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20))
def test_the_best_piece_is_always_worth_reading(scores: list[float]) -> None:
    assert min(scores) <= falling_point(scores) <= max(scores)
