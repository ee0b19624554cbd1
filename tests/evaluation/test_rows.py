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
    Drop,
    FewerPassages,
    Keep,
    LastTokens,
    SameText,
)
from refrag_components.evaluation.rows import Prompt
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import PolicyInputs

K = 4
QUESTION, ANSWER, BARE = [1001, 1002], [2001], [3001, 3002]
SEPARATOR = 900  # of passage i: 900 + i


def prompt(tokens: list[int], scores: list[float] | None = None, seed: int = 0) -> Prompt:
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
        chunk_rows=np.arange(len(lengths)) + 50,
        lengths=np.array(lengths),
        bare_ids=np.array(BARE),
        answer_ids=np.array(ANSWER),
        similar=tuple(rng.permutation(len(tokens)).tolist()),
        answering=rng.random(len(tokens)) < 0.5,
        inputs=PolicyInputs([], NOTHING_ASKED),
        limit=10_000,
        scores={"random": drawn if scores is None else np.array(scores, np.float32)},
    )


NOTHING_ASKED = EncodedQuestion("", np.zeros(0, np.int32), np.zeros((0, 1), np.float32))

PROMPTS = st.builds(
    prompt,
    tokens=st.lists(st.integers(1, 19), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
FRACTIONS = st.floats(0, 1)


def context(row_tokens: np.ndarray) -> list[int]:
    """The tokens of passages."""
    return [int(token) for token in row_tokens if 100 <= token < SEPARATOR]


@given(PROMPTS, FRACTIONS)
def test_drop_reads_the_very_chunks_that_keep_expands_and_nothing_else(
    own: Prompt, fraction: float
) -> None:
    keep, drop = (kind("random", fraction).row(own) for kind in (Keep, Drop))
    expanded, cut = own.expanded("random", fraction)
    assert not cut
    wanted = own.token_ids[own.in_context & expanded[own.chunk_of]].tolist()
    assert context(drop.token_ids) == wanted
    assert context(keep.token_ids[keep.chunk_index < 0]) == wanted
    assert (drop.chunk_index == -1).all()
    assert drop.context_positions == len(wanted)
    # What keep has beside it is one position for each chunk that drop lacks.
    compressed = keep.chunk_index[keep.chunk_index >= 0].tolist()
    assert compressed == own.chunk_rows[~expanded].tolist()
    assert keep.context_positions == len(wanted) + len(compressed)


@given(PROMPTS, FRACTIONS)
def test_text_takes_the_positions_of_its_compressed_context_and_no_more(
    own: Prompt, fraction: float
) -> None:
    taken = Keep("random", fraction).row(own).context_positions
    row = SameText("random", fraction).row(own)
    assert row.context_positions == taken
    assert len(context(row.token_ids)) == taken
    assert (row.chunk_index == -1).all()
    # The chunks that expand are among them: they come first.
    assert {*context(Drop("random", fraction).row(own).token_ids)} <= {*context(row.token_ids)}
    # Whole chunks in order of their scores, but for the last one.
    left = taken
    wanted: list[int] = []
    for chunk in np.argsort(-own.scores["random"], kind="stable"):
        wanted += own.token_ids[own.chunk_of == chunk][:left].tolist()
        left = max(left - int(own.lengths[chunk]), 0)
    assert sorted(context(row.token_ids)) == sorted(wanted)


@given(PROMPTS, FRACTIONS)
def test_other_plain_text_gets_no_less_than_any_choice_of_chunks(
    own: Prompt, fraction: float
) -> None:
    taken = Keep("random", fraction).row(own).context_positions
    for method in (LastTokens(fraction), FewerPassages(fraction)):
        row = method.row(own)
        # Which chunks expand decides whether a short one is among them.
        assert taken <= row.context_positions <= own.context_tokens
        assert row.context_positions - taken < K * len(own.similar)
        assert (row.chunk_index == -1).all()


@given(PROMPTS, FRACTIONS)
def test_a_passage_that_is_gone_takes_its_separator_along(own: Prompt, fraction: float) -> None:
    for method in (Drop("random", fraction), SameText("random", fraction), GOLD, LastTokens(0.1)):
        row = method.row(own)
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


@given(PROMPTS)
def test_the_answering_passages_alone_are_whole(own: Prompt) -> None:
    row = GOLD.row(own)
    answering = np.r_[own.answering, False][own.passage_of]
    assert context(row.token_ids) == own.token_ids[answering & own.in_context].tolist()


@given(PROMPTS)
def test_the_ends_of_the_range_are_known_rows(own: Prompt) -> None:
    full = FULL.row(own)
    assert full.token_ids.tolist() == own.token_ids.tolist()
    for kind in (Keep, Drop, SameText):
        assert kind("random", 1.0).row(own).token_ids.tolist() == full.token_ids.tolist()
    nothing = Keep("random", 0.0).row(own)
    assert nothing.token_ids.tolist() == COMPRESSED.row(own).token_ids.tolist()
    assert nothing.context_positions == len(own.lengths)
    assert Drop("random", 0.0).row(own).token_ids.tolist() == NONE.row(own).token_ids.tolist()
    assert SameText("random", 0.0).row(own).context_positions == len(own.lengths)


@given(PROMPTS, FRACTIONS, st.integers(0, 40))
def test_nothing_exceeds_the_window(own: Prompt, fraction: float, spare: int) -> None:
    own = replace(own, limit=len(own.lengths) + spare)
    for method in (
        FULL,
        GOLD,
        COMPRESSED,
        LastTokens(fraction),
        FewerPassages(fraction),
        *(kind("random", fraction) for kind in (Keep, Drop, SameText)),
    ):
        assert method.row(own).context_positions <= own.limit
    full = FULL.row(own)
    assert full.cut == (own.context_tokens > own.limit)
    assert full.context_positions == min(own.context_tokens, own.limit)
    first = own.similar[0]  # what is left is the most similar
    beginning = own.token_ids[(own.passage_of == first) & own.in_context][: own.limit]
    assert {*beginning.tolist()} <= {*context(full.token_ids)}
    keep, drop = (kind("random", fraction).row(own) for kind in (Keep, Drop))
    assert keep.cut == drop.cut
    assert context(keep.token_ids[keep.chunk_index < 0]) == context(drop.token_ids)


@pytest.mark.parametrize(
    ("scores", "stretches"),
    [
        ([9, 8, 0, 0, 0], [list(range(100, 108))]),
        ([9, 0, 8, 0, 0], [[100, 101, 102, 103], [108, 109]]),
        ([0, 0, 8, 9, 0], [[108, 109], [200, 201, 202, 203]]),
    ],
)
def test_text_stands_in_stretches(scores: list[float], stretches: list[list[int]]) -> None:
    """Two chunks that were apart in the passage do not make a text of one piece."""
    own = prompt([10, 6], scores)
    for kind in (Keep, Drop):
        assert [s.tolist() for s in kind("random", 0.4).row(own).stretches] == stretches
    assert COMPRESSED.row(own).stretches == []
    assert [len(stretch) for stretch in FULL.row(own).stretches] == [10, 6]
