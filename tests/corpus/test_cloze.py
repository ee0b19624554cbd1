"""Questions made of running text must be answered by that text, and show no answer themselves."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import (
    IGNORED,
    ClozeForm,
    TokenisedCorpus,
    WindowSpec,
    batch_logits,
    cloze,
    cut_windows,
)
from refrag_components.corpus.cloze import ask_for_gaps
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT, tiny_decoder_tokenizer

SENTENCES = [
    *TEXT,
    "On 12 May 1,200 men of the well-known Red Guard left Old Harbour for the north coast.",
    "The tower of St Mary was built by Anna Berg in the year 1907, and fell in the same year.",
]


def context_of(model: RefragModel, order: list[int]) -> np.ndarray:
    text = " ".join(SENTENCES[i] for i in order)
    return np.array([model.tokenizer(text, add_special_tokens=False).input_ids])


def asked(
    model: RefragModel, context: np.ndarray, passage_tokens: int, output: int, seed: int
) -> list[tuple[str, str]]:
    """Questions and answers, read back from the chat."""
    form = ClozeForm.of(model.tokenizer)
    rng = np.random.default_rng(seed)
    tokens, labels = ask_for_gaps(context, passage_tokens, output, form, rng)
    assert tokens.shape == labels.shape == (1, output)
    assert set(np.unique(labels - tokens)) <= {0, *(IGNORED - tokens[labels == IGNORED]).tolist()}
    end = model.tokenizer.eos_token_id
    pairs: list[tuple[str, str]] = []
    place = 0
    answers = labels[0] != IGNORED
    while answers[place:].any():
        begin = place + int(answers[place:].argmax())
        stop = begin + int((labels[0, begin:] == end).argmax()) + 1
        assert answers[begin:stop].all()
        before = str(model.tokenizer.decode(tokens[0, place:begin]))
        assert before.endswith("<|im_end|>\n<|im_start|>assistant\n")
        question = before.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        pairs.append((question, str(model.tokenizer.decode(tokens[0, begin : stop - 1]))))
        place = stop
    assert not tokens[0, place:].any()
    return pairs


@settings(max_examples=60)
@given(
    order=st.lists(st.sampled_from(range(len(SENTENCES))), min_size=3, max_size=7, unique=True),
    passage_tokens=st.sampled_from([20, 64, 1000]),
    output=st.integers(1, 400),
    seed=st.integers(0, 1000),
)
def test_each_answer_fills_the_gap_of_its_question(
    tiny_model: RefragModel, order: list[int], passage_tokens: int, output: int, seed: int
) -> None:
    context = context_of(tiny_model, order)
    pieces = [
        str(tiny_model.tokenizer.decode(context[0, i : i + passage_tokens]))
        for i in range(0, context.shape[1], passage_tokens)
    ]
    for question, answer in asked(tiny_model, context, passage_tokens, output, seed):
        words = f" {question}".split(" what", 1)
        assert len(words) == 2
        assert answer == answer.strip()
        assert any(answer in piece for piece in pieces)
        left, right = (set(part.split()) for part in words)
        around = [piece for piece in pieces if f" {answer}" in f" {piece}"]
        assert any(all(w in piece for w in left | right) for piece in around)
        assert 1 <= len(answer.split()) <= 4


@pytest.mark.parametrize("seed", range(8))
def test_no_question_shows_what_another_asks_for(tiny_model: RefragModel, seed: int) -> None:
    """One gap a sentence: with two, each question would hold the other's answer."""
    pairs = asked(tiny_model, context_of(tiny_model, list(range(7))), 1000, 2000, seed)
    assert len(pairs) > 4
    of_sentence = [
        [i for i, text in enumerate(SENTENCES) if answer in text and _alike(question, text) == 1]
        for question, answer in pairs
    ]
    found = [own[0] for own in of_sentence]
    assert len(set(found)) == len(found)


def _alike(question: str, text: str) -> float:
    asked = f" {question}".replace(" what", " ").split()
    return float(np.mean([word in text for word in asked]))


def test_answers_are_mostly_names_and_numbers_in_whole_words(tiny_model: RefragModel) -> None:
    seen = set()
    for seed in range(60):
        pairs = asked(tiny_model, context_of(tiny_model, [0, 5, 6]), 1000, 1000, seed)
        seen |= {answer for _, answer in pairs}
    assert {"12 May 1,200", "1907", "Anna Berg", "Old Harbour", "Red Guard", "St Mary"} <= seen
    assert not seen & {"1", "200", ",", "Berg", "Guard", "Anna"}
    assert any(answer.islower() for answer in seen)


@settings(max_examples=60)
@given(
    order=st.permutations(range(len(SENTENCES))),
    output=st.integers(1, 600),
    seed=st.integers(0, 99),
)
def test_no_question_that_fits_is_left_out(
    tiny_model: RefragModel, order: list[int], output: int, seed: int
) -> None:
    """Looking for more ends early: whatever fits among all questions must be there all the same."""
    context = context_of(tiny_model, order)
    form = ClozeForm.of(tiny_model.tokenizer)
    roomy, answers = ask_for_gaps(context, 1000, 4000, form, np.random.default_rng(seed))
    stops = np.flatnonzero((answers[0] != IGNORED) & (answers[0] == form.again[0])) + 1
    turns = np.split(roomy[0, : stops[-1]], stops[:-1])
    bare = [turns[0][len(form.ask) :], *(turn[len(form.again) - 1 :] for turn in turns[1:])]
    wanted: list[int] = []
    for turn in bare:
        added = [*(form.again[1:] if wanted else form.ask), *turn]
        wanted += added if len(wanted) + len(added) <= output else []
    tokens, _ = ask_for_gaps(context, 1000, output, form, np.random.default_rng(seed))
    assert tokens[0].tolist() == wanted + [0] * (output - len(wanted))


def test_sentences_are_not_looked_at_for_long_when_a_row_is_full(tiny_model: RefragModel) -> None:
    context = context_of(tiny_model, list(range(7)) * 30)
    form = ClozeForm.of(tiny_model.tokenizer)
    with patch.object(cloze, "_thinned", wraps=cloze._thinned) as thinned:
        _, labels = ask_for_gaps(context, 10000, 300, form, np.random.default_rng(0))
    assert (labels != IGNORED).any()
    assert thinned.call_count < 2 * 7 * 30 / 3


def test_text_without_words_is_not_asked_for(tiny_model: RefragModel) -> None:
    form = ClozeForm.of(tiny_model.tokenizer)
    ids = tiny_model.tokenizer("((;--)) - (!) ...", add_special_tokens=False).input_ids
    tokens, labels = ask_for_gaps(np.array([ids]), 64, 200, form, np.random.default_rng(0))
    assert not tokens.any()
    assert (labels == IGNORED).all()


def test_a_decoder_without_a_chat_template_is_asked_in_lines() -> None:
    form = ClozeForm.of(tokenizer := tiny_decoder_tokenizer(None))
    around = [tokenizer.decode(part) for part in (form.ask, form.reply, form.again)]
    assert "user" in around[0]
    assert "assistant" in around[1]
    assert "user" in around[2]


@pytest.mark.parametrize("expanded", [0.0, 0.5, 1.0])
def test_only_the_answers_to_questions_about_the_context_count(
    layered_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    spec = WindowSpec(
        passages=2, passage_tokens=40, output_tokens=0, cloze_tokens=160, expanded=expanded, run=16
    )
    assert spec.span == 80
    starts = np.array([3, 20, 40])
    batch = cut_windows(
        corpus,
        starts,
        spec,
        chunk_size=4,
        rungs=(4, 8, 16),
        row_rungs=[4, 8, 16],
        separator=0,
        rng=np.random.default_rng(0),
        form=ClozeForm.of(layered_model.tokenizer),
    )
    answers = 0
    width = batch.token_ids.shape[1]
    for row, start in enumerate(starts):
        context = str(layered_model.tokenizer.decode(corpus.tokens[start : start + 80]))
        own = batch.label_index // width == row
        *texts, rest = str(layered_model.tokenizer.decode(batch.labels[own])).split("<|im_end|>")
        assert texts
        assert not rest
        assert all(text in context for text in texts)
        answers += len(texts)
        # Each label is the token that stands at the next position.
        places = batch.label_index[own] % width
        following = batch.token_ids[row][(places + 1).clamp(max=width - 1)]
        assert torch.equal(following[:-1], batch.labels[own][:-1])
    assert answers > 3
    with torch.inference_mode():
        assert len(batch_logits(layered_model, batch)) == len(batch.labels)


def test_a_window_without_words_asks_nothing(tiny_model: RefragModel) -> None:
    ids = np.array(tiny_model.tokenizer("((;--)) - (!) ..." * 9).input_ids)
    batch = cut_windows(
        TokenisedCorpus(ids, ""),
        np.array([0]),
        WindowSpec(passages=1, passage_tokens=40, output_tokens=0, cloze_tokens=100),
        chunk_size=4,
        rungs=(4,),
        row_rungs=[4],
        separator=0,
        rng=np.random.default_rng(0),
        form=ClozeForm.of(tiny_model.tokenizer),
    )
    assert len(batch.labels) == batch.predicted == 0
