"""How ``benchmarks/splits.py`` divides positions, over contexts of any shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.splits import Split
from refrag_components.generation.choosing import Choice, Chunks, choose
from refrag_components.policies import PositionBudget
from tests.generation.test_choosing import AMPLE, K, chunks_of, random_scores

RUNGS = (K, 2 * K, 4 * K)


def passages_with(mask: np.ndarray, chunks: Chunks) -> set[int]:
    """The passages of masked chunks."""
    return set(chunks.passage[mask].tolist())


def with_embeddings(choice: Choice, chunks: Chunks) -> set[int]:
    """The passages of which chunk embeddings are read."""
    return passages_with((choice.rungs[chunks.passage] > 0) & ~choice.expanded, chunks)


CONTEXTS = st.builds(
    chunks_of, st.lists(st.integers(1, 75), min_size=1, max_size=6), st.just(RUNGS)
)
SEEDS = st.integers(0, 1000)
POSITIONS = st.integers(1, 150)
SPLITS = st.builds(
    Split,
    st.floats(0, 1),
    st.sampled_from([RUNGS, RUNGS[:1], RUNGS[2:]]),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
)


@given(CONTEXTS, SEEDS, POSITIONS)
def test_half_on_all_rungs_is_what_the_generator_does(
    chunks: Chunks, seed: int, positions: int
) -> None:
    scores = random_scores(chunks, seed)
    ours = Split(0.5, RUNGS).choice(scores, chunks, positions)
    its = choose(scores, chunks, PositionBudget(positions), "compress", AMPLE)
    np.testing.assert_array_equal(ours.expanded, its.expanded)
    np.testing.assert_array_equal(ours.rungs, its.rungs)


@given(SPLITS, CONTEXTS, SEEDS, POSITIONS)
def test_every_split_shows_the_best_runs_and_keeps_to_its_positions(
    split: Split, chunks: Chunks, seed: int, positions: int
) -> None:
    scores = random_scores(chunks, seed)
    choice = split.choice(scores, chunks, positions)
    assert chunks.positions(choice) <= positions
    by_run = chunks.by_run(choice.expanded)
    assert set(by_run) <= {0, *chunks.by_run(np.ones_like(chunks.lengths))}
    best = np.maximum.reduceat(scores, chunks.runs)
    text = by_run > 0
    if text.any() and not text.all():
        assert best[text].min() >= best[~text].max()


@given(CONTEXTS, SEEDS, POSITIONS)
def test_embeddings_may_be_left_to_passages_without_text(
    chunks: Chunks, seed: int, positions: int
) -> None:
    choice = Split(0.5, RUNGS, beside=False).choice(random_scores(chunks, seed), chunks, positions)
    assert not with_embeddings(choice, chunks) & passages_with(choice.expanded, chunks)


@given(CONTEXTS, SEEDS, POSITIONS)
def test_embeddings_may_be_left_to_the_best_passage(
    chunks: Chunks, seed: int, positions: int
) -> None:
    scores = random_scores(chunks, seed)
    choice = Split(0.0, (K,), most=1).choice(scores, chunks, positions)
    assert with_embeddings(choice, chunks) <= {int(chunks.passage[scores.argmax()])}
