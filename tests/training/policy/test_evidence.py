"""Policies are shown where answers stand, whatever tokens these are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import Conversation, QuestionSet
from refrag_components.modeling import RefragModel
from refrag_components.training.policy import evidence as module
from refrag_components.training.policy.evidence import evidence, evidence_loss, token_texts
from tests.tiny import TEXT

K = 4


@pytest.fixture(scope="module")
def questions(run_folder: Path) -> QuestionSet:
    return QuestionSet.load(run_folder / "questions")


def conversation(
    model: RefragModel, questions: QuestionSet, shown: list[int], needed: list[int], answer: str
) -> Conversation:
    """One turn that shows these passages of the set."""
    ids = [*model.tokenizer(answer, add_special_tokens=False).input_ids]
    return Conversation(
        texts=[np.zeros(1, np.int64)] * 2,
        passages=[np.array(shown, dtype=np.int64)],
        needed=np.array(needed),
        answer=np.array([*ids, model.tokenizer.eos_token_id]),
        question="",
        question_ids=np.zeros(0, np.int64),
        further=[],
        answering=np.array(needed),
    )


def chunks_of(model: RefragModel, text: str) -> list[str]:
    return model.chunker.chunk([text])[0].chunk_texts()


def test_chunks_of_the_answer_count_most(tiny_model: RefragModel, questions: QuestionSet) -> None:
    words = token_texts(tiny_model.tokenizer)
    row = conversation(tiny_model, questions, [1, 0], [0], "In 1907.")
    found = evidence(row, questions, words, K)
    counts = -(-questions.lengths[[1, 0]] // 4)
    assert len(found) == counts.sum()
    assert found.sum() == pytest.approx(1)
    assert (found[: counts[0]] == 0).all()  # it does not answer
    own = found[counts[0] :]
    chunks = chunks_of(tiny_model, TEXT[0])
    best = [chunks[i] for i in np.flatnonzero(own == own.max())]
    assert "in 1907" in "".join(best)
    assert len("".join(best)) < len(TEXT[0]) / 2
    peak = np.flatnonzero(own == own.max())
    assert (np.diff(own[: peak[0] + 1]) >= 0).all()  # it falls off on both sides
    assert (np.diff(own[peak[-1] :]) <= 0).all()
    assert own.min() > 0


@pytest.mark.parametrize("answer", ["list", "nowhere to be found", ""])
def test_without_its_words_all_of_the_passage_counts_alike(
    answer: str,
    tiny_model: RefragModel,
    questions: QuestionSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "list" in TEXT[1]
    monkeypatch.setattr(module, "_SAID_OF_ALL", ("list",))  # as "no" is, which stands in no text
    words = token_texts(tiny_model.tokenizer)
    row = conversation(tiny_model, questions, [0, 1], [1], answer)
    found = evidence(row, questions, words, K)
    counts = -(-questions.lengths[[0, 1]] // 4)
    np.testing.assert_allclose(found[counts[0] :], 1 / counts[1], rtol=1e-5)
    not_shown = conversation(tiny_model, questions, [0], [1], answer)
    assert (evidence(not_shown, questions, words, K) == 0).all()
    nothing = conversation(tiny_model, questions, [], [1], answer)
    assert evidence(nothing, questions, words, K).shape == (0,)


def test_what_is_not_ascii_ends_a_word(tiny_model: RefragModel, questions: QuestionSet) -> None:
    """Bytes of dashes and quotes look like letters where tokens are written as bytes."""
    text = "It was dug in \u201c1907\u201d\u20131910, north of the old town by the river."
    ids = np.array(tiny_model.tokenizer(text, add_special_tokens=False).input_ids)
    corpus = replace(questions.corpus, tokens=ids)
    alone = replace(questions, corpus=corpus, lengths=np.array([len(ids)]))
    words = token_texts(tiny_model.tokenizer)
    for answer in ("1907", "1910"):
        row = conversation(tiny_model, alone, [0], [0], answer)
        found = evidence(row, alone, words, K)
        best = [ids[4 * i : 4 * i + 4] for i in np.flatnonzero(found == found.max())]
        assert answer in tiny_model.tokenizer.decode(np.concatenate(best))
        assert np.ptp(found) > 0


def test_part_of_a_word_is_no_answer(tiny_model: RefragModel, questions: QuestionSet) -> None:
    words = token_texts(tiny_model.tokenizer)
    whole = next(word for word in TEXT[0].split() if word.isalpha() and len(word) > 5)
    for answer, stands in ((whole, True), (whole[1:-1], False)):
        row = conversation(tiny_model, questions, [0], [0], answer)
        found = evidence(row, questions, words, K)
        assert (np.ptp(found) > 1e-6) == stands, answer


@settings(max_examples=30)
@given(chunks=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_loss_is_least_where_picks_follow_the_evidence(chunks: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.rand(2, chunks, generator=generator) + 0.01
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    other = torch.randn(2, chunks, generator=generator)
    assert evidence_loss(wanted.log(), wanted) <= evidence_loss(other, wanted) + 1e-6
    # A prompt without evidence does not count, whatever is said of it; nor does padding.
    more = torch.cat([wanted, torch.zeros(1, chunks)])
    padded = torch.nn.functional.pad(more, (0, 2))
    logits = torch.nn.functional.pad(torch.cat([other, other[:1]]), (0, 2), value=-1e9)
    torch.testing.assert_close(evidence_loss(logits, padded), evidence_loss(other, wanted))
