"""What is measured is what a user gets, and plain text never gets more room than chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refrag_components.corpus.question_files import Question
from refrag_components.engines.sampling import SamplingParams
from refrag_components.evaluation.answers.contexts import Context
from refrag_components.evaluation.answers.prompts import Prompts, build_prompts, build_row, messages
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.methods import COMPRESSED, FULL, NONE, Method, default_methods
from refrag_components.evaluation.selections import chunk_scores
from refrag_components.exceptions import EvaluationError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from tests.tiny import TEXT


def question(number: int) -> Question:
    return Question(f"q{number}", f"When was harbour {number} dug?", ("1907",), "number", (), ())


@pytest.fixture(scope="module")
def contexts() -> list[Context]:
    return [
        Context(question(0), (TEXT[0], TEXT[1], TEXT[2]), (2, 0, 1)),
        Context(question(1), (TEXT[3],), (0,)),
        Context(question(2), (TEXT[4], TEXT[0]), (1, 0)),
    ]


@pytest.fixture(scope="module")
def prompts(tiny_model: RefragModel, contexts: list[Context]) -> Prompts:
    return build_prompts(tiny_model, contexts, max_new_tokens=8)


@pytest.mark.parametrize(
    "method", [NONE, FULL, COMPRESSED, Method("similarity", 0.25), Method("random", 0.5)]
)
def test_answers_are_the_generator_s(
    tiny_model: RefragModel, contexts: list[Context], prompts: Prompts, method: Method
) -> None:
    scores: list[np.ndarray | None] = [None] * len(contexts)
    if method.is_selection:
        inputs = [prompt.inputs for prompt in prompts.prompts]
        scores = list(chunk_scores(method.way, tiny_model, inputs))
    rows = [build_row(p, method, s) for p, s in zip(prompts.prompts, scores, strict=True)]
    outputs = decode(tiny_model, prompts.chunks, rows, max_new_tokens=8)

    policy = {"none": "none", "full": "all", "compressed": "none"}.get(method.way, method.way)
    generator = RefragGenerator(
        tiny_model, policy=policy, budget=FractionBudget(float(method.fraction))
    )
    for context, output, row in zip(contexts, outputs, rows, strict=True):
        passages = () if method is NONE else context.passages
        parts = render(messages(context.question.text, passages), tiny_model.tokenizer)
        request = Request(parts, context.question.text)
        assert generator.prepare(request).layout.n_positions == len(row.token_ids)
        (answer,) = generator.generate([request], SamplingParams(max_tokens=8))
        text = tiny_model.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert text == answer.text


def test_batches_and_their_sizes_change_nothing(tiny_model: RefragModel, prompts: Prompts) -> None:
    rows = [build_row(p, m, None) for m in (NONE, FULL, COMPRESSED) for p in prompts.prompts]
    together = decode(tiny_model, prompts.chunks, rows, max_new_tokens=12)
    done: list[int] = []
    alone = decode(
        tiny_model, prompts.chunks, rows, max_new_tokens=12, positions=1, progress=done.append
    )
    assert sum(done) == len(rows)
    assert len(done) > len(rows) // 2
    assert [output.token_ids for output in together] == [output.token_ids for output in alone]
    np.testing.assert_allclose(
        [output.log_ppl for output in together], [output.log_ppl for output in alone], atol=1e-4
    )


def test_the_log_perplexity_is_that_of_a_plain_forward_pass(
    tiny_model: RefragModel, prompts: Prompts
) -> None:
    prompt = prompts.prompts[0]
    (output,) = decode(
        tiny_model, prompts.chunks, [build_row(prompt, FULL, None)], max_new_tokens=1
    )
    ids = torch.from_numpy(np.concatenate([prompt.token_ids, prompt.answer_ids]))[None]
    with torch.inference_mode():
        logits = tiny_model.decoder(input_ids=ids).logits[0, -len(prompt.answer_ids) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(prompt.answer_ids))
    assert output.log_ppl == pytest.approx(float(loss), abs=1e-4)


def test_the_full_context_is_the_plain_prompt(
    tiny_model: RefragModel, contexts: list[Context], prompts: Prompts
) -> None:
    context, prompt = contexts[1], prompts.prompts[1]
    parts = render(messages(context.question.text, context.passages), tiny_model.tokenizer)
    tokenizer = PromptTokenizer(tiny_model.tokenizer)
    pieces = [
        tokenizer.encode([TextPart(part.text) if isinstance(part, PassagePart) else part])
        for part in parts
    ]
    text = tiny_model.tokenizer.decode(np.concatenate(pieces))
    assert tiny_model.tokenizer.decode(build_row(prompt, FULL, None).token_ids) == text


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1), which=st.integers(0, 2))
def test_equal_positions_are_equal(prompts: Prompts, fraction: float, which: int) -> None:
    prompt = prompts.prompts[which]
    chunks = build_row(
        prompt, Method("recent", fraction), -prompt.lengths.astype(np.float32) * 0
    ).context_positions
    for way in ("last", "fewer"):
        row = build_row(prompt, Method(way, fraction), None)
        # Which chunks expand decides whether a short one is among them.
        assert 0 <= row.context_positions - chunks < 4
        assert row.context_positions <= prompt.context_tokens
        assert (row.chunk_index == -1).all()
        assert len(row.token_ids) <= len(prompt.token_ids)


def test_fewer_passages_keeps_the_most_similar(tiny_model: RefragModel, prompts: Prompts) -> None:
    text = tiny_model.tokenizer.decode(
        build_row(prompts.prompts[0], Method("fewer", 0.1), None).token_ids
    )
    assert TEXT[2][:20] in text
    assert TEXT[1][:20] not in text
    last = tiny_model.tokenizer.decode(
        build_row(prompts.prompts[0], Method("last", 0.1), None).token_ids
    )
    assert TEXT[2][-20:] in last
    assert "\n\n\n" not in last


def test_a_context_that_does_not_fit_is_named(
    tiny_model: RefragModel, ask: Callable[..., Question]
) -> None:
    context = Context(ask(7), (" ".join(TEXT * 10),), (0,))
    with pytest.raises(EvaluationError, match=r"'q7'.*use fewer passages"):
        build_prompts(tiny_model, [context], max_new_tokens=8)


def test_all_methods_fit_their_prompt(prompts: Prompts) -> None:
    for method in default_methods():
        for prompt in prompts.prompts:
            scores = np.zeros(len(prompt.lengths), np.float32) if method.is_selection else None
            row = build_row(prompt, method, scores)
            assert len(row.token_ids) == len(row.chunk_index) <= len(prompt.token_ids)
            assert row.chunk_index.max() < len(prompts.chunks)
