"""What is measured is what a user gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from refrag_components.corpus.question_files import Question
from refrag_components.engines.sampling import SamplingParams
from refrag_components.evaluation import decoding
from refrag_components.evaluation.answers.contexts import Context
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.answers.messages import messages
from refrag_components.evaluation.answers.prompts import PromptBuilder, Prompts
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    GOLD,
    NONE,
    Drop,
    FewerPassages,
    Keep,
    Ladder,
    LadderText,
    Method,
    SameText,
    default_methods,
)
from refrag_components.evaluation.selections import chunk_scores
from refrag_components.exceptions import EvaluationError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget, PositionBudget
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from tests.tiny import TEXT


def question(number: int) -> Question:
    text = f"When was harbour {number} dug?"
    return Question(f"q{number}", text, ("1907",), "number", (TEXT[0],), ())


@pytest.fixture(scope="module")
def contexts() -> list[Context]:
    return [
        Context(question(0), (TEXT[0], TEXT[1], TEXT[2]), (2, 0, 1)),
        Context(question(1), (TEXT[3],), (0,)),
        Context(question(2), (TEXT[4], TEXT[0]), (1, 0)),
    ]


@pytest.fixture(scope="module")
def prompts(tiny_model: RefragModel, contexts: list[Context]) -> Prompts:
    return build(tiny_model, contexts)


def build(model: RefragModel, contexts: list[Context], selections: tuple[str, ...] = ()) -> Prompts:
    """Prompts with room for 8 tokens, and the scores of some selections."""
    prompts = PromptBuilder(EncodedPassages(model), max_new_tokens=8).build(contexts)
    inputs = [prompt.inputs for prompt in prompts.prompts]
    scores = {name: chunk_scores(name, model, inputs) for name in selections}
    scored = [
        replace(prompt, scores={name: rows[i] for name, rows in scores.items()})
        for i, prompt in enumerate(prompts.prompts)
    ]
    return replace(prompts, prompts=scored)


@pytest.mark.parametrize("ladder", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        NONE,
        FULL,
        COMPRESSED,
        Keep("similarity", 0.25),
        Keep("random", 0.5),
        Drop("random", 0.5),
        Ladder("random", 30),
        LadderText("random", 30),
    ],
)
def test_answers_are_the_generator_s(
    tiny_model: RefragModel,
    layered_model: RefragModel,
    contexts: list[Context],
    method: Method,
    ladder: bool,
) -> None:
    model = layered_model if ladder else tiny_model
    prompts = build(model, contexts, tuple(filter(None, [method.selection])))
    rows = [method.row(prompt) for prompt in prompts.prompts]
    outputs = decode(model, prompts.chunks, rows, max_new_tokens=8)

    policy = {"none": "none", "full": "all", "compressed": "none"}.get(
        method.kind, str(method.selection)
    )
    generator = RefragGenerator(
        model,
        policy=policy,
        budget=PositionBudget(method.positions)
        if method.positions
        else FractionBudget(method.fraction or 0.0),
        rest="drop" if isinstance(method, Drop | LadderText) else "compress",
    )
    for context, output, row in zip(contexts, outputs, rows, strict=True):
        passages = () if method is NONE else context.passages
        parts = render(messages(context.question.text, passages), model.tokenizer)
        request = Request(parts, context.question.text)
        assert generator.prepare(request).layout.n_positions == len(row.token_ids)
        (answer,) = generator.generate([request], SamplingParams(max_tokens=8))
        text = model.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert text == answer.text


def test_batches_and_their_sizes_change_nothing(tiny_model: RefragModel, prompts: Prompts) -> None:
    rows = [m.row(p) for m in (NONE, FULL, COMPRESSED) for p in prompts.prompts]
    answers = ([5], [5, 6, 7, 8, 9, 10, 11], [6, 5])
    rows = [replace(r, answer_ids=np.array(a)) for r, a in zip(rows, answers * 3, strict=True)]
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
    (output,) = decode(tiny_model, prompts.chunks, [FULL.row(prompt)], max_new_tokens=1)
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
    part_ids = [
        tokenizer.encode([TextPart(part.text) if isinstance(part, PassagePart) else part])
        for part in parts
    ]
    text = tiny_model.tokenizer.decode(np.concatenate(part_ids))
    assert tiny_model.tokenizer.decode(FULL.row(prompt).token_ids) == text


def test_rows_that_are_the_same_are_read_once(
    tiny_model: RefragModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, other = (FULL.row(prompt) for prompt in prompts.prompts[:2])
    read: list[int] = []
    done: list[int] = []
    original = decoding._decode_batch

    def counting(model, chunks, rows, *rest):  # type: ignore[no-untyped-def]
        read.append(len(rows))
        return original(model, chunks, rows, *rest)

    monkeypatch.setattr(decoding, "_decode_batch", counting)
    outputs = decode(
        tiny_model, prompts.chunks, [row, other, row], max_new_tokens=4, progress=done.append
    )
    assert sum(read) == 2
    assert sum(done) == 3
    assert outputs[0] == outputs[2] != outputs[1]


@pytest.mark.parametrize(
    "method", [FULL, GOLD, FewerPassages(0.1), Drop("recent", 0.2), SameText("recent", 0.1)]
)
def test_what_is_left_reads_as_a_prompt_of_it_would(
    tiny_model: RefragModel, contexts: list[Context], method: Method
) -> None:
    """No separator of a passage that is left out, no heading of a context that is left out."""
    prompts = build(tiny_model, contexts, ("recent",))
    for context, prompt in zip(contexts, prompts.prompts, strict=True):
        row = method.row(prompt)
        left: dict[int, list[int]] = {}
        for i in row.prompt_index[row.prompt_index >= 0]:
            left.setdefault(int(prompt.passage_of[i]), []).append(int(prompt.token_ids[i]))
        texts = [tiny_model.tokenizer.decode(ids) for ids in left.values()]
        parts = render(messages(context.question.text, texts), tiny_model.tokenizer)
        text = "".join(part.text for part in parts)
        assert tiny_model.tokenizer.decode(row.token_ids) == text


def test_a_context_without_an_answering_passage_is_none(tiny_model: RefragModel) -> None:
    (prompt,) = build(tiny_model, [Context(question(0), (TEXT[1], TEXT[2]), (0, 1))]).prompts
    assert GOLD.row(prompt).token_ids.tolist() == NONE.row(prompt).token_ids.tolist()
    assert "context" not in tiny_model.tokenizer.decode(GOLD.row(prompt).token_ids)


@pytest.mark.parametrize("answers", [("1907",), ("1907" * 15,)])
def test_a_context_beyond_the_window_is_cut_and_counted(
    tiny_model: RefragModel, answers: tuple[str, ...]
) -> None:
    long_question = replace(question(7), answers=answers)
    passages = (TEXT[0], " ".join(TEXT * 4), " ".join(TEXT[1:] * 2))
    context = Context(long_question, passages, (0, 2, 1))
    prompts = build(tiny_model, [context], ("recent", "similarity"))
    (prompt,) = prompts.prompts
    room = tiny_model.window - max(8, len(prompt.answer_ids))
    assert len(prompt.token_ids) > room
    row = FULL.row(prompt)
    assert row.cut
    assert len(row.token_ids) == room
    text = tiny_model.tokenizer.decode(row.token_ids)
    assert TEXT[0] in text
    assert passages[2] in text  # the most similar whole, the least similar cut
    assert passages[1][:40] in text
    assert long_question.text in text
    for method in default_methods(("recent", "similarity"), (0.1, 0.9, 1.0)):
        row = method.row(prompt)
        assert len(row.token_ids) <= room
        wanted_more = method.selection is not None and (method.fraction or 0) >= 0.9
        assert row.cut == (method == FULL or wanted_more)
    generator = RefragGenerator(
        tiny_model, policy="similarity", budget=FractionBudget(1.0), rest="compress"
    )
    parts = render(messages(long_question.text, passages), tiny_model.tokenizer)
    request = Request(parts, long_question.text)
    wanted = max(8, len(prompt.answer_ids))
    expanded = generator.prepare(request, max_tokens=wanted).report.context_positions
    assert Keep("similarity", 1.0).row(prompt).context_positions == expanded
    (output,) = decode(tiny_model, prompts.chunks, [FULL.row(prompt)], max_new_tokens=8)
    assert np.isfinite(output.log_ppl)


def test_a_context_that_does_not_fit_compressed_is_named(
    tiny_model: RefragModel, ask: Callable[..., Question]
) -> None:
    context = Context(ask(7), (" ".join(TEXT * 25),), (0,))
    with pytest.raises(EvaluationError, match=r"'q7'.*retrieve fewer passages"):
        build(tiny_model, [context])


def test_passages_are_encoded_once(
    tiny_model: RefragModel, contexts: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    original = tiny_model.encode_passages

    def counting(texts, **options):  # type: ignore[no-untyped-def]
        encoded.extend(texts)
        return original(texts, **options)

    monkeypatch.setattr(tiny_model, "encode_passages", counting)
    builder = PromptBuilder(EncodedPassages(tiny_model), max_new_tokens=8)
    builder.build(contexts[:2])
    assert sorted(encoded) == sorted({TEXT[0], TEXT[1], TEXT[2], TEXT[3]})
    both = builder.build(contexts)
    assert sorted(encoded) == sorted(TEXT)
    alone = PromptBuilder(EncodedPassages(tiny_model), max_new_tokens=8).build(contexts[2:])
    np.testing.assert_allclose(
        both.chunks[both.prompts[2].chunk_rows[4]],
        alone.chunks[alone.prompts[0].chunk_rows[4]],
        atol=1e-5,
    )


def test_all_methods_fit_their_prompt(tiny_model: RefragModel, contexts: list[Context]) -> None:
    prompts = build(tiny_model, contexts, ("recent", "similarity"))
    for method in default_methods(("recent", "similarity")):
        for prompt in prompts.prompts:
            row = method.row(prompt)
            assert len(row.token_ids) == len(row.chunk_index) == len(row.prompt_index)
            assert len(row.token_ids) <= len(prompt.token_ids)
            assert row.chunk_index.max() < len(prompts.chunks)
            assert not row.cut
