"""What becomes of the chunks of a prompt, over prompts of any shape."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.generation.choosing import Choice, Chunks, choose, only_choice
from refrag_components.policies import FractionBudget, PositionBudget, Rest, parse_budget

K = 4
AMPLE = 100_000


def chunks_of(tokens: list[int], rungs: tuple[int, ...] = (K,)) -> Chunks:
    """The chunks of passages of so many tokens."""
    lengths = [min(K, n - start) for n in tokens for start in range(0, n, K)]
    counts = [-(-n // K) for n in tokens]
    return Chunks(np.array(counts, np.int64), np.array(lengths, np.int64), rungs)


def random_scores(chunks: Chunks, seed: int) -> np.ndarray:
    """With equal ones among them."""
    drawn = np.random.default_rng(seed).integers(0, 20, len(chunks.lengths))
    return drawn.astype(np.float32)


def fates(choice: Choice, chunks: Chunks) -> list[str]:
    """Each chunk as T (text), its rung, or - (dropped)."""
    rungs = choice.rungs[chunks.passage]
    pairs = zip(choice.expanded, rungs, strict=True)
    return ["T" if expanded else str(rung) if rung else "-" for expanded, rung in pairs]


PASSAGES = st.lists(st.integers(1, 70), min_size=1, max_size=8)
RUNGS = st.sampled_from([(K,), (K, 2 * K), (K, 2 * K, 4 * K)])
PROMPTS = st.builds(chunks_of, PASSAGES, RUNGS)
SEEDS = st.integers(0, 1000)
RESTS: st.SearchStrategy[Rest] = st.sampled_from(["compress", "drop"])


@given(PROMPTS, SEEDS, RESTS, st.integers(1, 700), st.integers(0, 700))
def test_positions_are_never_more_than_allowed(
    chunks: Chunks, seed: int, rest: Rest, positions: int, limit: int
) -> None:
    scores = random_scores(chunks, seed)
    choice = choose(scores, chunks, PositionBudget(positions), rest, limit)
    taken = chunks.positions(choice)
    assert taken <= min(positions, limit)
    assert (taken == 0) == any("hold nothing" in warning for warning in choice.warnings)
    if chunks.n_tokens <= min(positions, limit):
        assert choice.expanded.all()
    if rest == "drop":
        assert not choice.rungs.any()


@given(PROMPTS, SEEDS, st.integers(1, 700))
def test_a_ladder_is_filled_from_the_top(chunks: Chunks, seed: int, positions: int) -> None:
    scores = random_scores(chunks, seed)
    choice = choose(scores, chunks, PositionBudget(positions), "compress", AMPLE)
    # Best passages first; the dropped ones are behind the coarsest rung.
    best = [scores[chunks.passage == i].max() for i in range(len(chunks.counts))]
    order = np.argsort(-np.array(best), kind="stable")
    steps = [int(rung) or AMPLE for rung in choice.rungs[order]]
    assert steps == sorted(steps)
    # No run is cut, and the best runs are text.
    by_run = [run.all() for run in np.split(choice.expanded, chunks.runs[1:])]
    assert by_run == [run.any() for run in np.split(choice.expanded, chunks.runs[1:])]
    best_of_run = np.maximum.reduceat(scores, chunks.runs)
    text = np.array(by_run)
    if text.any() and not text.all():
        assert best_of_run[text].min() >= best_of_run[~text].max()


@given(PROMPTS, SEEDS, RESTS, st.integers(1, 500))
def test_a_larger_number_of_positions_only_adds_text(
    chunks: Chunks, seed: int, rest: Rest, positions: int
) -> None:
    scores = random_scores(chunks, seed)
    small, large = (
        choose(scores, chunks, PositionBudget(positions + more), rest, AMPLE) for more in (0, 1)
    )
    assert (large.expanded >= small.expanded).all()


@given(PROMPTS, SEEDS)
def test_twice_the_positions_of_the_finest_rung_drop_nothing(chunks: Chunks, seed: int) -> None:
    """Half of them may be text; the other half holds everything else."""
    budget = PositionBudget(2 * len(chunks.lengths))
    choice = choose(random_scores(chunks, seed), chunks, budget, "compress", AMPLE)
    assert {*choice.rungs} == {K}


def by_passage(choice: Choice, chunks: Chunks) -> list[str]:
    """What becomes of each passage's chunks, each fate once."""
    parts = np.split(np.array(fates(choice, chunks)), chunks.counts.cumsum()[:-1])
    return ["".join(dict.fromkeys(part)) for part in parts]


@pytest.mark.parametrize(
    ("positions", "passages"),
    [
        (1, ["-", "-", "-", "-", "-", "-"]),
        (4, ["16", "16", "-", "-", "-", "-"]),
        (12, ["8", "16", "16", "16", "16", "-"]),
        (16, ["4", "8", "16", "16", "-", "-"]),
        (40, ["T4", "4", "8", "8", "16", "16"]),
        (60, ["T4", "4", "4", "4", "4", "4"]),
        (80, ["T", "4", "4", "4", "4", "4"]),
        (200, ["T", "T", "T", "T", "T", "T"]),
    ],
)
def test_the_steps_of_the_ladder(positions: int, passages: list[str]) -> None:
    """32 tokens take 8 positions at k=4, 4 at k=8, 2 at k=16; a run has 16 tokens."""
    chunks = chunks_of([32] * 6, (4, 8, 16))
    scores = np.repeat(np.arange(6, 0, -1, dtype=np.float32), 8)
    choice = choose(scores, chunks, PositionBudget(positions), "compress", AMPLE)
    assert by_passage(choice, chunks) == passages


@given(PROMPTS, SEEDS, st.integers(1, 700))
def test_text_alone_leaves_no_room_for_another_chunk(
    chunks: Chunks, seed: int, positions: int
) -> None:
    """Whole runs, the best first, and of the next one as many chunks as fit."""
    scores = random_scores(chunks, seed)
    shown = choose(scores, chunks, PositionBudget(positions), "drop", AMPLE).expanded
    parts = np.split(shown, chunks.runs[1:])
    best = np.argsort(-np.maximum.reduceat(scores, chunks.runs), kind="stable")
    in_order = np.concatenate([parts[run] for run in best])
    lengths = np.concatenate([np.split(chunks.lengths, chunks.runs[1:])[run] for run in best])
    count = int(in_order.sum())
    assert in_order[:count].all()
    assert shown.all() or lengths[: count + 1].sum() > positions


def test_one_rung_compresses_or_drops() -> None:
    chunks = chunks_of([16, 16, 16])
    scores = np.array([9, 9, 0, 0, 5, 5, 5, 5, 1, 1, 1, 1], np.float32)
    choice = choose(scores, chunks, PositionBudget(16), "compress", AMPLE)
    assert "".join(fates(choice, chunks)) == "TT" + "44" + "4444" + "----"
    dropped = choose(scores, chunks, PositionBudget(16), "drop", AMPLE)
    assert "".join(fates(dropped, chunks)) == "TT--" + "TT--" + "----"


@pytest.mark.parametrize(
    ("positions", "expanded"), [(3, 0), (5, 0), (6, 1), (8, 1), (9, 2), (10, 3), (99, 3)]
)
def test_positions_count_compressed_chunks_too(positions: int, expanded: int) -> None:
    chunks = Chunks(np.array([3]), np.array([4, 4, 2]), (4,))
    choice = choose(np.array([3.0, 2.0, 1.0]), chunks, parse_budget(positions), "compress", AMPLE)
    assert choice.expanded.sum() == expanded
    assert chunks.positions(choice) <= positions


def test_fewer_positions_than_chunks_is_no_error() -> None:
    chunks = Chunks(np.array([1, 1, 1]), np.full(3, 4), (4,))
    choice = choose(np.array([1.0, 3.0, 2.0]), chunks, parse_budget(2), "compress", AMPLE)
    assert fates(choice, chunks) == ["-", "4", "4"]
    assert choice.warnings == ()


@given(PROMPTS, SEEDS, RESTS, st.floats(0, 1))
def test_a_fraction_expands_the_best_runs(
    chunks: Chunks, seed: int, rest: Rest, fraction: float
) -> None:
    scores = random_scores(chunks, seed)
    budget = FractionBudget(fraction)
    choice = choose(scores, chunks, budget, rest, AMPLE)
    runs = [run.all() for run in np.split(choice.expanded, chunks.runs[1:])]
    something = int(rest == "drop" and fraction > 0)  # a short context does not disappear
    assert sum(runs) == max(budget.count(len(runs)), something)
    assert {*choice.rungs} == {K if rest == "compress" else 0}
    kept = int((~choice.expanded).sum()) if rest == "compress" else 0
    assert chunks.positions(choice) == int(chunks.lengths[choice.expanded].sum()) + kept
    certain = only_choice(chunks, budget, rest, AMPLE)
    if certain is not None:
        np.testing.assert_array_equal(certain.expanded, choice.expanded)
        np.testing.assert_array_equal(certain.rungs, choice.rungs)


@given(PROMPTS, SEEDS, RESTS, st.floats(0, 1), st.integers(0, 200))
def test_the_window_limits_a_fraction(
    chunks: Chunks, seed: int, rest: Rest, fraction: float, spare: int
) -> None:
    scores = random_scores(chunks, seed)
    limit = (len(scores) if rest == "compress" else 0) + spare
    wanted = choose(scores, chunks, FractionBudget(fraction), rest, AMPLE)
    choice = choose(scores, chunks, FractionBudget(fraction), rest, limit)
    assert chunks.positions(choice) <= limit
    assert (choice.expanded <= wanted.expanded).all()
    assert bool(choice.warnings) == (chunks.positions(wanted) > limit)
    if (
        choice.warnings and rest == "drop" and limit
    ):  # the window is full, as by a number of positions
        filled = choose(scores, chunks, PositionBudget(limit), "drop", AMPLE)
        np.testing.assert_array_equal(choice.expanded, filled.expanded)


@pytest.mark.parametrize("scores", [np.zeros(2), np.array([0.0, math.nan, 1.0])])
def test_refuses_scores_that_mean_nothing(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one finite score"):
        choose(scores, chunks_of([12]), parse_budget(0.5), "compress", AMPLE)


@pytest.mark.parametrize("budget", [parse_budget(0.5), parse_budget(8)])
def test_without_chunks_nothing_is_chosen(budget: FractionBudget | PositionBudget) -> None:
    chunks = chunks_of([])
    for choice in (
        choose(np.zeros(0, np.float32), chunks, budget, "compress", 0),
        only_choice(chunks, budget, "drop", 0),
    ):
        assert choice is not None
        assert choice.expanded.shape == (0,)
        assert chunks.positions(choice) == 0


def test_a_passage_without_chunks_makes_no_difference() -> None:
    chunks = replace(chunks_of([8, 8]), counts=np.array([2, 0, 2]))
    choice = choose(np.array([1.0, 2.0, 3.0, 4.0]), chunks, parse_budget(3), "compress", AMPLE)
    assert choice.rungs.tolist() == [0, 0, 4]
    assert chunks.positions(choice) == 2
