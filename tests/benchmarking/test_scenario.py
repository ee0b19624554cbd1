from __future__ import annotations

import pytest

from refrag_components.benchmarking.scenario import Case, cases, make_passages, prompt
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart


def test_all_combinations_once_with_the_text_first() -> None:
    chosen = cases((64, 32), (8, 4), (0.0, 0.25))
    assert chosen[:2] == [Case(32, "text"), Case(64, "text")]
    assert len(chosen) == len(set(chosen)) == 2 + 2 * 2 * 2 * (2 + 1)
    assert [case.k for case in chosen[2:]] == sorted(case.k for case in chosen[2:])
    assert all(case.expanded for case in chosen if case.method == "drop")


def test_only_what_is_asked_for() -> None:
    chosen = cases((64,), (8,), (0.1,), cached=(True,), rests=("drop",))
    assert chosen == [Case(64, "text"), Case(64, "drop", 8, 0.1)]


@pytest.mark.parametrize("context", [64, 100])
def test_passages_have_the_tokens_that_are_asked_for(
    tiny_subject: ShapeSubject, context: int
) -> None:
    model = tiny_subject.at(8)
    passages = make_passages(model.tokenizer, context, 32)
    lengths = [len(passage.token_ids) for passage in model.chunker.chunk(passages)]
    assert sum(lengths) == context
    assert set(lengths[:-1]) == {32}
    assert len(set(passages)) == len(passages)
    assert passages == make_passages(model.tokenizer, context, 32)


def test_passages_for_a_tokenizer_that_cuts_words(tiny_model: RefragModel) -> None:
    passages = make_passages(tiny_model.tokenizer, 96, 32)
    lengths = [len(passage.token_ids) for passage in tiny_model.chunker.chunk(passages)]
    assert len(lengths) == 3
    assert all(abs(length - 32) <= 1 for length in lengths)


def test_what_surrounds_the_passages_has_a_token_for_each_word(tiny_subject: ShapeSubject) -> None:
    tokenizer = tiny_subject.at(8).tokenizer
    text = "".join(part.text for part in prompt([" the"], "text"))
    assert len(text.split()) == 10 + 1 + 32
    assert len(tokenizer(text)["input_ids"]) == 10 + 1 + 32 + 3  # breaks


def test_the_text_baseline_has_the_same_words() -> None:
    compressed, text = prompt(["one", "two"], "compress"), prompt(["one", "two"], "text")
    assert [part.text for part in compressed] == [part.text for part in text]
    assert sum(isinstance(part, PassagePart) for part in compressed) == 2
    assert not any(isinstance(part, PassagePart) for part in text)
