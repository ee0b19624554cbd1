"""Rows of all kinds, over prompts of any shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    GOLD,
    NONE,
    AllCompressed,
    Drop,
    FewerPassages,
    Keep,
    Ladder,
    LadderText,
    LastTokens,
    SameText,
)
from refrag_components.evaluation.rows import Prompt
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import FractionBudget, PolicyInputs

K = 4
QUESTION, ANSWER, BARE = [1001, 1002], [2001], [3001, 3002]
SEPARATOR = 900  # of passage i: 900 + i


def table(tokens: list[int], rung: int) -> np.ndarray:
    """The row of each chunk on a rung; the rungs' tables are 1000 rows apart."""
    counts = [-(-n // rung) for n in tokens]
    first = 50 + 1000 * (rung // K - 1) + np.cumsum([0, *counts])
    rows = [first[i] + np.arange(0, n, K) // rung for i, n in enumerate(tokens)]
    return np.concatenate(rows)


def prompt(
    tokens: list[int],
    scores: list[float] | None = None,
    seed: int = 0,
    rungs: tuple[int, ...] = (K,),
) -> Prompt:
    """A prompt with passages of so many tokens: token j of passage i is 100 * (i + 1) + j."""
    rng = np.random.default_rng(seed)
    ids, chunk_of, passage_of, between, lengths = [7], [-1], [0], [False], []
    for i, n in enumerate(tokens):
        if i:
            ids.append(SEPARATOR + i)
            chunk_of.append(-1)
            passage_of.append(i)
            between.append(True)
        ids += [100 * (i + 1) + j for j in range(n)]
        chunk_of += [len(lengths) + j // K for j in range(n)]
        passage_of += [i] * n
        between += [False] * n
        lengths += [min(K, n - start) for start in range(0, n, K)]
    ids += QUESTION
    chunk_of += [-1] * 2
    passage_of += [len(tokens)] * 2
    between += [False] * 2
    drawn = rng.permutation(len(lengths)).astype(np.float32)
    return Prompt(
        token_ids=np.array(ids),
        chunk_of=np.array(chunk_of),
        passage_of=np.array(passage_of),
        between=np.array(between),
        chunk_rows={rung: table(tokens, rung) for rung in rungs},
        lengths=np.array(lengths),
        bare_ids=np.array(BARE),
        answer_ids=np.array(ANSWER),
        similar=tuple(rng.permutation(len(tokens)).tolist()),
        answering=rng.random(len(tokens)) < 0.5,
        inputs=PolicyInputs([], NO_QUESTION),
        limit=10_000,
        scores={"random": drawn if scores is None else np.array(scores, np.float32)},
    )


NO_QUESTION = EncodedQuestion("", np.zeros(0, np.int32), np.zeros((0, 1), np.float32))

PROMPTS = st.builds(
    prompt,
    tokens=st.lists(st.integers(1, 19), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
LADDERS = st.builds(
    prompt,
    tokens=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    rungs=st.sampled_from([(K,), (K, 2 * K), (K, 2 * K, 4 * K)]),
)
FRACTIONS = st.floats(0, 1)


def context(row_tokens: np.ndarray) -> list[int]:
    """The tokens of passages."""
    return [int(token) for token in row_tokens if 100 <= token < SEPARATOR]


@given(PROMPTS, FRACTIONS)
def test_drop_reads_exactly_the_chunks_that_keep_expands(example: Prompt, fraction: float) -> None:
    keep, drop = (kind("random", fraction).row(example) for kind in (Keep, Drop))
    choice = example.chosen("random", FractionBudget(fraction))
    expanded = choice.expanded
    assert choice.warnings == ()
    wanted = example.token_ids[example.in_context & expanded[example.chunk_of]].tolist()
    assert context(drop.token_ids) == wanted
    assert context(keep.token_ids[keep.chunk_index < 0]) == wanted
    assert (drop.chunk_index == -1).all()
    assert drop.context_positions == len(wanted)
    # In addition, keep has one position for each chunk that drop lacks.
    compressed = keep.chunk_index[keep.chunk_index >= 0].tolist()
    assert compressed == example.chunk_rows[K][~expanded].tolist()
    assert keep.context_positions == len(wanted) + len(compressed)


@given(PROMPTS, FRACTIONS)
def test_text_takes_the_positions_of_its_compressed_context_and_no_more(
    example: Prompt, fraction: float
) -> None:
    taken = Keep("random", fraction).row(example).context_positions
    row = SameText("random", fraction).row(example)
    assert row.context_positions == taken
    assert len(context(row.token_ids)) == taken
    assert (row.chunk_index == -1).all()
    # The chunks that expand are among them: they come first.
    assert {*context(Drop("random", fraction).row(example).token_ids)} <= {*context(row.token_ids)}
    # Whole chunks in order of their scores, except the last one.
    left = taken
    wanted: list[int] = []
    for chunk in np.argsort(-example.scores["random"], kind="stable"):
        wanted += example.token_ids[example.chunk_of == chunk][:left].tolist()
        left = max(left - int(example.lengths[chunk]), 0)
    assert sorted(context(row.token_ids)) == sorted(wanted)


@given(PROMPTS, FRACTIONS)
def test_other_plain_text_gets_no_less_than_any_choice_of_chunks(
    example: Prompt, fraction: float
) -> None:
    taken = Keep("random", fraction).row(example).context_positions
    for method in (LastTokens(fraction), FewerPassages(fraction)):
        row = method.row(example)
        # Which chunks expand decides whether a short one is among them.
        assert taken <= row.context_positions <= example.context_tokens
        assert row.context_positions - taken < K * len(example.similar)
        assert (row.chunk_index == -1).all()


@given(PROMPTS, FRACTIONS)
def test_a_passage_that_is_left_out_takes_its_separator_along(
    example: Prompt, fraction: float
) -> None:
    for method in (Drop("random", fraction), SameText("random", fraction), GOLD, LastTokens(0.1)):
        row = method.row(example)
        if not context(row.token_ids):
            assert row.token_ids.tolist() == BARE
            continue
        shown = [i // 100 - 1 for i in context(row.token_ids)]
        passages = sorted({*shown})
        assert shown == sorted(shown)  # in the prompt's order
        separators = [int(i) - SEPARATOR for i in row.token_ids if 900 <= i < 1000]
        assert separators == passages[1:]
        assert row.token_ids[-2:].tolist() == QUESTION
        assert row.answer_ids.tolist() == ANSWER


@given(LADDERS, FRACTIONS)
def test_the_same_runs_expand_on_every_rung(example: Prompt, fraction: float) -> None:
    drop = Drop("random", fraction).row(example)
    rungs = [*example.chunk_rows]
    positions = []
    for rung in (None, *rungs):
        row = Keep("random", fraction, rung).row(example)
        assert context(row.token_ids[row.chunk_index < 0]) == context(drop.token_ids)
        embedded = row.chunk_index[row.chunk_index >= 0].tolist()
        assert len({*embedded}) == len(embedded)
        hidden = ~example.chosen("random", FractionBudget(fraction)).expanded
        assert embedded == list(dict.fromkeys(example.chunk_rows[rung or K][hidden].tolist()))
        positions.append(row.context_positions)
        text = SameText("random", fraction, rung).row(example)
        assert text.context_positions == row.context_positions
        assert {*context(drop.token_ids)} <= {*context(text.token_ids)}
    assert positions == sorted(positions, reverse=True) or positions[0] == positions[1]
    assert positions[0] == positions[1]


@given(LADDERS)
def test_everything_compressed_has_a_row_per_rung(example: Prompt) -> None:
    counts = example.chunks.counts
    for rung, rows in example.chunk_rows.items():
        row = AllCompressed(rung).row(example)
        assert row.chunk_index[row.chunk_index >= 0].tolist() == [*dict.fromkeys(rows.tolist())]
        assert row.context_positions == sum(-(-counts * K // rung))
    assert AllCompressed().row(example).token_ids.tolist() == (
        AllCompressed(K).row(example).token_ids.tolist()
    )


@given(LADDERS, st.integers(2, 300))
def test_a_number_of_positions_is_filled(example: Prompt, positions: int) -> None:
    ladder, text = (kind("random", positions).row(example) for kind in (Ladder, LadderText))
    for row in (ladder, text):
        assert row.context_positions <= positions
        assert context(row.token_ids) == sorted(context(row.token_ids))
        # Embeddings and text in the prompt's order.
        assert (np.diff(row.prompt_index[row.prompt_index >= 0]) > 0).all()
        if example.context_tokens <= positions:
            assert row.token_ids.tolist() == FULL.row(example).token_ids.tolist()
    assert (text.chunk_index == -1).all()
    assert {*context(ladder.token_ids[ladder.chunk_index < 0])} <= {*context(text.token_ids)}


@given(PROMPTS)
def test_the_answering_passages_alone_are_whole(example: Prompt) -> None:
    row = GOLD.row(example)
    answering = np.r_[example.answering, False][example.passage_of]
    assert context(row.token_ids) == example.token_ids[answering & example.in_context].tolist()


@given(PROMPTS)
def test_the_ends_of_the_range_are_known_rows(example: Prompt) -> None:
    full = FULL.row(example)
    assert full.token_ids.tolist() == example.token_ids.tolist()
    for kind in (Keep, Drop, SameText):
        assert kind("random", 1.0).row(example).token_ids.tolist() == full.token_ids.tolist()
    nothing = Keep("random", 0.0).row(example)
    assert nothing.token_ids.tolist() == COMPRESSED.row(example).token_ids.tolist()
    assert nothing.context_positions == len(example.lengths)
    assert (
        Drop("random", 0.0).row(example).token_ids.tolist() == NONE.row(example).token_ids.tolist()
    )
    assert SameText("random", 0.0).row(example).context_positions == len(example.lengths)


@given(PROMPTS, FRACTIONS, st.integers(0, 40))
def test_nothing_exceeds_the_window(example: Prompt, fraction: float, spare: int) -> None:
    example = replace(example, limit=len(example.lengths) + spare)
    for method in (
        FULL,
        GOLD,
        COMPRESSED,
        LastTokens(fraction),
        FewerPassages(fraction),
        *(kind("random", fraction) for kind in (Keep, Drop, SameText)),
    ):
        assert method.row(example).context_positions <= example.limit
    full = FULL.row(example)
    assert full.cut == (example.context_tokens > example.limit)
    assert full.context_positions == min(example.context_tokens, example.limit)
    first = example.similar[0]  # what is left is the most similar
    beginning = example.token_ids[(example.passage_of == first) & example.in_context][
        : example.limit
    ]
    assert {*beginning.tolist()} <= {*context(full.token_ids)}
    keep, drop = (kind("random", fraction).row(example) for kind in (Keep, Drop))
    assert keep.cut == drop.cut
    assert context(keep.token_ids[keep.chunk_index < 0]) == context(drop.token_ids)


@pytest.mark.parametrize(
    ("scores", "spans"),
    [
        ([9, 8, 0, 0, 0], [list(range(100, 108))]),
        ([9, 0, 8, 0, 0], [[100, 101, 102, 103], [108, 109]]),
        ([0, 0, 8, 9, 0], [[108, 109], [200, 201, 202, 203]]),
    ],
)
def test_text_is_cut_into_contiguous_spans(scores: list[float], spans: list[list[int]]) -> None:
    """Two chunks that are not neighbours in the passage do not make one text."""
    example = prompt([10, 6], scores)
    for kind in (Keep, Drop):
        assert [s.tolist() for s in kind("random", 0.4).row(example).text_spans] == spans
    assert COMPRESSED.row(example).text_spans == []
    assert [len(span) for span in FULL.row(example).text_spans] == [10, 6]
