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
    chosen = best_pieces(scores, kept.astype(bool), tokens, limit)
    assert len({*chosen}) == len(chosen)
    must = {i for i, p in enumerate(pieces) if p[1]}
    assert must <= {*chosen}
    used = sum(pieces[i][2] for i in chosen)
    free = sum(pieces[i][2] for i in must)
    assert used <= max(limit, free)
    for i in {*range(len(pieces))} - {*chosen}:
        better = [j for j in chosen if j in must or (-pieces[j][0], j) < (-pieces[i][0], i)]
        assert sum(pieces[j][2] for j in better) + pieces[i][2] > limit


def test_scores_are_parted_where_they_fall() -> None:
    assert falling_point([0.1, 0.9, 0.15, 0.85, 0.12]) == 0.85
    assert falling_point([0.5]) == 0.5
    assert falling_point([0.5, 0.5]) == 0.5


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20))
def test_the_best_piece_is_always_worth_reading(scores: list[float]) -> None:
    assert min(scores) <= falling_point(scores) <= max(scores)
