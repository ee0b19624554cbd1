"""A chat model says what expands; the budget says how much."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import numpy as np
import pytest

from refrag_components.engines.sampling import SamplingParams
from refrag_components.excerpts import Excerpter
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import (
    ComparisonPolicy,
    FractionBudget,
    LateInteractionPolicy,
    NaturalLanguagePolicy,
    PolicyInputs,
    RandomPolicy,
    make_policy,
    select,
)
from refrag_components.prompts.parts import PassagePart, TextPart
from tests.tiny import TEXT

QUESTION = "Where is the harbour?"


@pytest.fixture
def inputs(tiny_model: RefragModel) -> PolicyInputs:
    question = tiny_model.encode_questions([QUESTION])[0]
    return PolicyInputs(tiny_model.encode_passages(TEXT), question)


def policy(
    model: RefragModel, reply: str | Callable[[str], str], **options: int
) -> tuple[NaturalLanguagePolicy, list[str]]:
    """A policy whose model gives this reply, and the prompts that it will have read."""
    prompts: list[str] = []

    def llm(prompt: str) -> str:
        prompts.append(prompt)
        return reply if isinstance(reply, str) else reply(prompt)

    return NaturalLanguagePolicy(llm, tokenizer=model.tokenizer, **options), prompts


def test_the_model_reads_numbered_parts_of_all_passages(
    tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    made, prompts = policy(tiny_model, "1")
    made.scores(inputs)
    (prompt,) = prompts
    numbers = [int(n) for n in re.findall(r"^\[(\d+)\]", prompt, flags=re.MULTILINE)]
    assert numbers == [*range(1, len(made.stretches(inputs)) + 1)]
    read = "".join(re.sub(r"^\[\d+\] ", "", prompt, flags=re.MULTILINE).split())
    assert all("".join(text.split()) in read for text in TEXT)
    assert QUESTION in prompt
    assert made.instruction in prompt


def test_what_it_names_expands_in_its_order(tiny_model: RefragModel, inputs: PolicyInputs) -> None:
    made, _ = policy(tiny_model, "3, 1", stretch=8)
    scores, parts = made.scores(inputs), made.stretches(inputs)
    first, second, third = (scores[part.first : part.last] for part in parts[:3])
    rest = scores[parts[3].first :]
    assert third.min() > first.max()
    assert first.min() > max(second.max(), rest.max())
    otherwise = LateInteractionPolicy().scores(inputs)[parts[3].first :]
    assert np.array_equal(np.argsort(-rest, kind="stable"), np.argsort(-otherwise, kind="stable"))


@pytest.mark.parametrize("reply", ["1", "1, 2, 3, 4, 5, 6, 7, 8", "all of them!", "0"])
def test_a_budget_holds_whatever_it_says(
    tiny_model: RefragModel, inputs: PolicyInputs, reply: str
) -> None:
    made, _ = policy(tiny_model, reply, stretch=8)
    for share in (0.0, 0.3, 1.0):
        expanded = select(made.scores(inputs), FractionBudget(share))
        assert expanded.sum() == round(share * inputs.n_chunks)


@pytest.mark.parametrize("reply", ["I cannot say.", "999", ""])
def test_nonsense_falls_back_with_a_warning(
    tiny_model: RefragModel, inputs: PolicyInputs, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = policy(tiny_model, reply)
    with caplog.at_level(logging.WARNING):
        scores = made.scores(inputs)
    assert "named no part" in caplog.text
    expected = LateInteractionPolicy().scores(inputs)
    assert np.array_equal(np.argsort(-scores), np.argsort(-expected))


def test_another_policy_decides_what_it_leaves_open(
    tiny_model: RefragModel, inputs: PolicyInputs, caplog: pytest.LogCaptureFixture
) -> None:
    other = RandomPolicy()
    unbound = NaturalLanguagePolicy(lambda prompt: "no idea", otherwise=other)
    scores = unbound.following("Name one.").of(tiny_model).scores(inputs)
    assert np.array_equal(np.argsort(-scores), np.argsort(-other.scores(inputs)))
    assert "as by random" in caplog.text


@pytest.mark.parametrize("kind", [NaturalLanguagePolicy, ComparisonPolicy])
def test_what_it_leaves_open_is_up_to_the_default_of_the_checkpoint(
    trained: RefragModel, kind: type[NaturalLanguagePolicy] | type[ComparisonPolicy]
) -> None:
    question = trained.encode_questions([QUESTION])[0]
    asked = PolicyInputs(trained.encode_passages(TEXT), question)
    scores = kind(lambda prompt: "no idea").of(trained).scores(asked)
    learned = make_policy("learned-query", trained).scores(asked)
    best = np.argsort(-learned, kind="stable")[0]
    assert np.argsort(-scores, kind="stable")[0] == best


@pytest.mark.parametrize("kind", [NaturalLanguagePolicy, ComparisonPolicy])
def test_what_decides_instead_is_for_the_same_model(
    tiny_model: RefragModel,
    inputs: PolicyInputs,
    kind: type[NaturalLanguagePolicy] | type[ComparisonPolicy],
) -> None:
    inner = ComparisonPolicy(lambda prompt: "no idea")  # has no tokenizer yet
    outer = kind(lambda prompt: "no idea", otherwise=inner, tokenizer=tiny_model.tokenizer)
    assert np.isfinite(outer.of(tiny_model).scores(inputs)).all()


def test_that_nothing_helps_is_no_nonsense(
    tiny_model: RefragModel, inputs: PolicyInputs, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = policy(tiny_model, " 0.\n")
    with caplog.at_level(logging.WARNING):
        made.scores(inputs)
    assert not caplog.text


def test_a_model_that_fails_falls_back_with_a_warning(
    tiny_model: RefragModel, inputs: PolicyInputs, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(prompt: str) -> str:
        raise ConnectionError("no route")

    made, _ = policy(tiny_model, unreachable)
    with caplog.at_level(logging.WARNING):
        scores = made.scores(inputs)
    assert "no route" in caplog.text
    assert np.isfinite(scores).all()


def test_a_long_context_takes_several_prompts(
    tiny_model: RefragModel, inputs: PolicyInputs
) -> None:
    made, prompts = policy(tiny_model, "2", stretch=8, at_once=3)
    scores, parts = made.scores(inputs), made.stretches(inputs)
    assert len(prompts) == -(-len(parts) // 3)
    best = scores[parts[1].first]
    assert best > 1
    assert scores[parts[4].first] >= 1  # the second of the second prompt ranks the same


def test_a_blank_question_is_not_asked(tiny_model: RefragModel, inputs: PolicyInputs) -> None:
    made, prompts = policy(tiny_model, "1")
    made.scores(PolicyInputs(inputs.passages, inputs.question.blanked))
    assert prompts == []


def test_it_reads_the_tokens_of_the_model_it_works_for(tiny_model: RefragModel) -> None:
    unbound = NaturalLanguagePolicy(lambda prompt: "2")
    bound = make_policy(unbound, tiny_model)
    assert isinstance(bound, NaturalLanguagePolicy)
    assert make_policy(bound, tiny_model) is bound
    other = bound.following("Name one.")
    assert (other.instruction, bound.instruction) == ("Name one.", unbound.instruction)
    parts = [part for text in TEXT for part in (PassagePart(text), TextPart("\n\n"))]
    request = Request((*parts, TextPart(QUESTION)), QUESTION, policy=unbound)
    (answer,) = RefragGenerator(tiny_model).generate([request], SamplingParams(max_tokens=2))
    assert answer.report.expanded > 0
    (first, *_) = Excerpter(tiny_model, policy=unbound, budget=0.5).extract(QUESTION, TEXT)
    assert isinstance(first.text, str)


def test_without_a_tokenizer_it_says_what_is_missing(inputs: PolicyInputs) -> None:
    with pytest.raises(ValueError, match="tokenizer="):
        NaturalLanguagePolicy(lambda prompt: "1").scores(inputs)
    with pytest.raises(ValueError, match="at least 1"):
        NaturalLanguagePolicy(lambda prompt: "1", stretch=0)
