"""What needs no vLLM: what it is asked, what is refused, and when it is told to stop.

A stand-in decodes here; ``test_vllm_for_real.py`` runs vLLM itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.chunk_marks import unmark
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import (
    ContextWindowError,
    EngineError,
    InvalidVectorsError,
    MissingExtraError,
    SamplingError,
    StructuredOutputError,
)
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.vectors import ChunkVectors
from tests.engines import fake_vllm
from tests.engines.contract import same
from tests.engines.fake_vllm import FakeEngine
from tests.engines.layouts import every_other, prompt
from tests.tiny import TEXT

GREEDY = SamplingParams(max_tokens=12)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def engine(layered_model: RefragModel, made: list[FakeEngine]) -> Iterator[VllmEngine]:
    engine = VllmEngine(layered_model)
    yield engine
    engine.close()


@pytest.fixture
def there(engine: VllmEngine, made: list[FakeEngine]) -> FakeEngine:
    """What stands in for vLLM, after it was asked whether it runs the right decoder."""
    (there,) = made
    there.prompts.clear()
    there.params.clear()
    there.aborted.clear()
    return there


@pytest.fixture
def layouts(layered_model: RefragModel) -> list[Layout]:
    """Prompts of different lengths: plain, compressed, mixed, and without any passage."""
    return [
        prompt(layered_model, TEXT[:3], True, "Answer:"),
        prompt(layered_model, TEXT[:4], False, "What rose?"),
        prompt(layered_model, TEXT[2:], every_other, "What fell?"),
        prompt(layered_model, [], True, "What?"),
    ]


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own limit ends it
        time.sleep(0.005)


class TestInProcess:
    def test_answers_are_the_default_engines(
        self, layered_model: RefragModel, engine: VllmEngine, layouts: list[Layout]
    ) -> None:
        default = TransformersEngine(layered_model)
        for params in (GREEDY, SamplingParams(max_tokens=12, stop=["e", "a"])):
            answers = engine.generate(layouts, params)
            assert all(map(same, answers, default.generate(layouts, params)))
        deltas = list(engine.stream(layouts[1], GREEDY))
        assert (
            "".join(delta.text for delta in deltas) == engine.generate(layouts[1:2], GREEDY)[0].text
        )

    async def test_tasks(self, engine: VllmEngine, layouts: list[Layout]) -> None:
        async def text(layout: Layout) -> str:
            return "".join([delta.text async for delta in engine.astream(layout, GREEDY)])

        expected = [output.text for output in engine.generate(layouts, GREEDY)]
        assert await asyncio.gather(*map(text, layouts)) == expected

    def test_what_a_mixed_prompt_is(
        self,
        layered_model: RefragModel,
        engine: VllmEngine,
        there: FakeEngine,
        layouts: list[Layout],
    ) -> None:
        """Zeros at tokens and no foreign token at embeddings: what vLLM's faults ask for."""
        engine.generate(layouts[2:3], GREEDY)
        (asked,) = there.prompts
        is_token = np.array(asked["prompt_is_token_ids"])
        rows, ids = asked["prompt_embeds"].numpy(), np.array(asked["prompt_token_ids"])
        assert rows.shape == (len(ids), layered_model.decoder.config.hidden_size)
        assert rows.dtype == np.float32
        assert 0 < is_token.sum() < len(ids)
        assert not rows[is_token].any()
        assert rows[~is_token].any(axis=1).all()
        assert set(ids[~is_token]) == {ids[0]}
        assert set(ids) == set(ids[is_token])

    def test_chunk_embeddings_are_marked_for_their_adapter(
        self, tiny_model: RefragModel, made: list[FakeEngine]
    ) -> None:
        layout = prompt(tiny_model, TEXT[:1], False, "What?")
        engine = VllmEngine(tiny_model)
        engine.generate([layout], GREEDY)
        engine.close()
        asked = made[0].prompts[-1]
        is_token = torch.tensor(asked["prompt_is_token_ids"])
        rows, is_marked = unmark(asked["prompt_embeds"])
        assert torch.equal(is_marked[:, 0], ~is_token)
        with torch.inference_mode():
            embeddings = tiny_model.chunk_embeddings([layout.passages[0].vectors])
        assert torch.equal(rows[~is_token], embeddings)
        assert not rows[is_token].any()

    def test_a_prompt_without_embeddings_is_sent_as_tokens(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        engine.generate(layouts[:1], GREEDY)
        assert set(there.prompts[0]) == {"cache_salt", "prompt_token_ids"}

    def test_what_is_passed_of_the_sampling(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        params = SamplingParams(
            max_tokens=5,
            temperature=1,
            top_p=0.9,
            top_k=7,
            repetition_penalty=1.3,
            seed=11,
            stop="e",
        )
        engine.generate([layouts[3]] * 2, params)
        first, second = sorted(there.params, key=lambda params: params.seed)
        assert (first.seed, second.seed) == (11, 12)
        assert (first.max_tokens, first.temperature, first.top_p, first.top_k) == (5, 1.0, 0.9, 7)
        assert first.repetition_penalty == 1.3
        assert first.stop_token_ids == [1, 2]
        assert not hasattr(first, "stop")
        schema = AnswerSchema.of({"type": "boolean"})
        engine.generate(layouts[3:], SamplingParams(max_tokens=2, answer_schema=schema))
        sent = there.params[-1].structured_outputs.json
        assert sent["type"] == "boolean"
        assert sent["x-guidance"]["whitespace_flexible"] is False
        assert there.arguments.structured_outputs_config.backend == "guidance"

    def test_nothing_is_shared_between_tenants(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        tenants = [engine, *map(engine.for_tenant, ("one", "other", "one"))]
        for tenant in tenants:
            tenant.generate(layouts[1:2], GREEDY)
        own, one, other, again = (prompt["cache_salt"] for prompt in there.prompts)
        assert one == again
        assert len({own, one, other}) == 3
        assert all(len(salt) > 32 for salt in (own, one, other))

    def test_an_embedding_of_zeros_shares_no_cache(
        self,
        layered_model: RefragModel,
        engine: VllmEngine,
        there: FakeEngine,
        layouts: list[Layout],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """vLLM's cache would take it for token 0 (its issue 56655)."""
        zeros = lambda passages, rung=None: torch.zeros(  # noqa: E731
            sum(-(-p.n_chunks * p.chunk_size // (rung or p.chunk_size)) for p in passages),
            layered_model.decoder.config.hidden_size,
        )
        monkeypatch.setattr(layered_model, "chunk_embeddings", zeros)
        engine.generate([layouts[1], layouts[1]], GREEDY)
        assert len({prompt["cache_salt"] for prompt in there.prompts}) == 2

    def test_a_stream_that_is_closed_is_aborted(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        stream = engine.stream(layouts[0], SamplingParams(max_tokens=200))
        next(stream)
        stream.close()
        wait_for(lambda: len(there.aborted) == 1)

    def test_a_stop_string_aborts(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        (plain,) = engine.generate(layouts[:1], SamplingParams(max_tokens=40))
        stop = plain.text[6:8]
        (output,) = engine.generate(layouts[:1], SamplingParams(max_tokens=40, stop=stop))
        assert (output.text, output.finish_reason) == (plain.text[: plain.text.find(stop)], "stop")
        wait_for(lambda: len(there.aborted) >= 1)

    async def test_a_task_that_is_cancelled_before_any_token(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        there.hold = True

        async def first() -> object:
            return await anext(engine.astream(layouts[0], GREEDY))

        task = asyncio.create_task(first())
        await asyncio.to_thread(wait_for, lambda: len(there.prompts) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_for, lambda: len(there.aborted) == 1)

    def test_an_error_reaches_who_asked_and_nobody_else(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        there.broken = ValueError("a mistake")
        with pytest.raises(EngineError, match="a mistake"):
            engine.generate(layouts[:1], GREEDY)
        schema = AnswerSchema.of({"type": "boolean"})
        with pytest.raises(StructuredOutputError, match="a mistake"):
            engine.generate(layouts[:1], SamplingParams(answer_schema=schema))
        there.broken = fake_vllm.DeadError()
        with pytest.raises(EngineError, match="died"):
            list(engine.stream(layouts[0], GREEDY))
        there.broken = None
        assert engine.generate(layouts[:1], GREEDY)[0].token_ids

    def test_closing_fails_what_runs_and_what_comes(
        self, engine: VllmEngine, there: FakeEngine, layouts: list[Layout]
    ) -> None:
        there.hold = True
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                engine.generate(layouts[:1], GREEDY)
            except EngineError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: len(there.prompts) == 1)
        engine.close()
        thread.join()
        assert "closed" in str(errors[0])
        assert there.is_shut
        with pytest.raises(EngineError, match="closed"):
            engine.generate(layouts, GREEDY)

    def test_it_ends_with_its_last_user(
        self, layered_model: RefragModel, made: list[FakeEngine], layouts: list[Layout]
    ) -> None:
        tenant = VllmEngine(layered_model).for_tenant("one")
        assert tenant.generate(layouts[:1], GREEDY)
        assert not made[0].is_shut
        del tenant
        assert made[0].is_shut

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_child_is_told_that_it_has_none(
        self, engine: VllmEngine, layouts: list[Layout]
    ) -> None:
        child = os.fork()
        if not child:
            try:
                engine.generate(layouts[:1], GREEDY)
            except EngineError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    def test_the_smaller_window_counts(
        self, layered_model: RefragModel, made: list[FakeEngine], layouts: list[Layout]
    ) -> None:
        size = layouts[0].n_positions
        engine = VllmEngine(layered_model, options={"max_model_len": size + 2})
        assert len(engine.generate(layouts[:1], GREEDY)[0].token_ids) == 2
        longer = Layout((TextSegment(np.full(size + 2, 20)),))
        with pytest.raises(ContextWindowError, match=f"window is {size + 2}"):
            engine.generate([longer], GREEDY)
        engine.close()

    def test_prompts_are_prepared_for_the_smaller_window(
        self, layered_model: RefragModel, made: list[FakeEngine]
    ) -> None:
        """What expands gives way to vLLM's own window, as to the decoder's."""
        parts = (*map(PassagePart, TEXT), TextPart("\nWhat rose?"))
        request = Request(
            parts, "What rose?", policy="similarity", budget=FractionBudget(1.0), rest="compress"
        )
        roomy = RefragGenerator(layered_model).prepare(request).layout.n_positions
        engine = VllmEngine(layered_model, options={"max_model_len": roomy - 20})
        for generator, asked in (
            (RefragGenerator(layered_model, engine=engine), request),
            (RefragGenerator(layered_model), replace(request, engine=engine)),
        ):
            (answer,) = generator.generate([asked], GREEDY)
            assert answer.report.positions <= roomy - 20 - 12
            assert answer.report.compressed > 0
            assert answer.report.output_tokens == 12
        assert RefragGenerator(layered_model, engine=engine).window == roomy - 20
        with pytest.raises(ContextWindowError, match=f"window is {roomy - 20}"):
            generator.prepare(replace(asked, budget=FractionBudget(1.0), parts=parts * 9))
        engine.close()


class TestRefusing:
    def test_vllm_that_is_not_installed(
        self, layered_model: RefragModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("refrag_components.engines.vllm_in_process.find_spec", lambda _: None)
        with pytest.raises(MissingExtraError, match=r"pip install 'refrag-components\[vllm\]'"):
            VllmEngine(layered_model)

    @pytest.mark.parametrize("name", ["pipeline_parallel_size", "tensor_parallel_size"])
    def test_an_adapter_at_chunk_embeddings_is_not_split(
        self, tiny_model: RefragModel, made: list[FakeEngine], name: str
    ) -> None:
        with pytest.raises(EngineError, match=name):
            VllmEngine(tiny_model, options={name: 2})
        assert not made

    @pytest.mark.parametrize(
        "name", ["enable_prompt_embeds", "kv_transfer_config", "speculative_config"]
    )
    def test_options_by_name(
        self, layered_model: RefragModel, made: list[FakeEngine], name: str
    ) -> None:
        with pytest.raises(EngineError, match=name):
            VllmEngine(layered_model, options={name: {}})
        assert not made

    def test_what_vllm_does_not_start_with(
        self, layered_model: RefragModel, made: list[FakeEngine]
    ) -> None:
        with pytest.raises(EngineError, match="no such seed"):
            VllmEngine(layered_model, options={"seed": -1})

    @pytest.mark.parametrize("temperature", [0.005, 2.5])
    def test_temperatures(
        self, engine: VllmEngine, layouts: list[Layout], temperature: float
    ) -> None:
        with pytest.raises(SamplingError, match=r"temperature.*0\.01\.\.2"):
            engine.generate(layouts, SamplingParams(temperature=temperature))

    def test_json_that_the_prompt_begins(self, engine: VllmEngine, layouts: list[Layout]) -> None:
        schema = AnswerSchema.of({"type": "array"}, prefix="[")
        with pytest.raises(StructuredOutputError, match="tool_choice"):
            engine.stream(layouts[0], SamplingParams(answer_schema=schema))

    def test_embeddings_that_are_not_finite(
        self, layered_model: RefragModel, engine: VllmEngine, there: FakeEngine
    ) -> None:
        (good,) = layered_model.encode_passages(TEXT[:1])
        rows = np.full_like(good.vectors, 3e38)
        bad = ChunkVectors(rows, good.token_ids, good.chunk_size, good.fingerprint)
        segment = PassageSegment(bad, np.zeros(bad.n_chunks, bool))
        with pytest.raises(InvalidVectorsError, match="NaN or infinite"):
            engine.generate([Layout((TextSegment(np.array([20])), segment))], GREEDY)
        assert not there.prompts

    def test_another_decoder(
        self,
        layered_model: RefragModel,
        made: list[FakeEngine],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        greedy = fake_vllm.greedy

        def others(*arguments: Any) -> Iterator[tuple[int, float]]:
            for token, logprob in greedy(*arguments):
                yield token, logprob - 1

        monkeypatch.setattr(fake_vllm, "greedy", others)
        with pytest.raises(EngineError, match="does not run this checkpoint's decoder"):
            VllmEngine(layered_model)
        assert made[0].is_shut
