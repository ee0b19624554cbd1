"""What every engine must do, as tests to inherit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from refrag_components.engines import Engine, EngineOutput, SamplingParams
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.exceptions import ContextWindowError, SamplingError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.huggingface import end_token_ids
from tests.engines.layouts import every_other, plain_ids, prompt
from tests.tiny import TEXT


def plain_answer(model: RefragModel, ids: list[int], max_tokens: int, **options: Any) -> list[int]:
    """What the decoder alone generates, by transformers' own loop."""
    inputs = torch.tensor([ids])
    output = model.decoder.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_tokens,
        pad_token_id=2,
        **{"do_sample": False, **options},
    )
    return [int(i) for i in output[0, len(ids) :]]


def same(left: EngineOutput, right: EngineOutput) -> bool:
    """Whether two answers are equal except for their times."""
    return replace(left, time_to_first_token=0.0) == replace(right, time_to_first_token=0.0)


class EngineContract:
    """Inherit it and define the fixtures ``model`` and ``engine``.

    Attributes:
        warm: The highest temperature to try, at most what the engine takes.
        tells_likelihoods: Whether it tells log probabilities; otherwise it must refuse by name.
    """

    warm = 5.0
    tells_likelihoods = True

    @pytest.fixture
    def model(self) -> RefragModel:
        """Lays prompts out; in float32 on a CPU, where answers can be compared exactly."""
        raise NotImplementedError

    @pytest.fixture
    def engine(self) -> Engine:
        """Runs the model's decoder."""
        raise NotImplementedError

    @pytest.fixture
    def layouts(self, model: RefragModel) -> list[Layout]:
        """Prompts of different lengths: plain, compressed, mixed, and without any passage."""
        return [
            prompt(model, TEXT[:3], True, "Answer:"),
            prompt(model, TEXT[:4], False, "What rose?"),
            prompt(model, TEXT[2:], every_other, "What fell?"),
            prompt(model, [], True, "What?"),
        ]

    def test_expanding_everything_is_the_plain_decoder(
        self, model: RefragModel, engine: Engine
    ) -> None:
        layout = prompt(model, TEXT[:3], True, "Answer:")
        output = engine.generate([layout], SamplingParams(max_tokens=40))[0]
        expected = plain_answer(model, plain_ids(layout), 40)
        assert list(output.token_ids) == expected
        assert output.text == model.tokenizer.decode(expected, skip_special_tokens=True)
        assert output.prompt_positions == len(plain_ids(layout))

    def test_batch_equals_single_and_stream_equals_generate(
        self, engine: Engine, layouts: list[Layout]
    ) -> None:
        params = SamplingParams(max_tokens=25)
        together = engine.generate(layouts, params)
        for layout, output in zip(layouts, together, strict=True):
            assert same(engine.generate([layout], params)[0], output)
            deltas = list(engine.stream(layout, params))
            assert "".join(delta.text for delta in deltas) == output.text
            assert tuple(i for delta in deltas for i in delta.token_ids) == output.token_ids
            assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)
            assert deltas[-1].finish_reason == output.finish_reason

    def test_padding_changes_nothing(self, model: RefragModel, engine: Engine) -> None:
        """Next to a row that is much longer, and next to one that is shorter."""
        layout = prompt(model, TEXT[:2], every_other, "What fell?")
        params = SamplingParams(max_tokens=10, repetition_penalty=1.2)
        (alone,) = engine.generate([layout], params)
        neighbours = (
            prompt(model, [*TEXT, *TEXT], False, "What rose?"),
            Layout((TextSegment(np.array([20, 21])),)),
        )
        for neighbour in neighbours:
            assert same(engine.generate([neighbour, layout], params)[1], alone)
            assert same(engine.generate([layout, neighbour], params)[0], alone)

    def test_rows_with_their_own_parameters_leave_each_other_alone(
        self, engine: Engine, layouts: list[Layout]
    ) -> None:
        params = [
            SamplingParams(max_tokens=1),
            SamplingParams(max_tokens=20, temperature=1.5, top_k=20, seed=7),
            SamplingParams(max_tokens=7, repetition_penalty=1.8),
            SamplingParams(max_tokens=30, stop=("e", "\ufffd"), temperature=0.8, top_p=0.9, seed=1),
        ]
        together = engine.generate(layouts, params)
        for layout, row_params, output in zip(layouts, params, together, strict=True):
            assert same(engine.generate([layout], row_params)[0], output)

    def test_an_answer_fits_its_schema(self, engine: Engine, layouts: list[Layout]) -> None:
        schema = {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 2, "maxItems": 3}
        answer_schema = AnswerSchema.of(schema)
        params = [
            SamplingParams(answer_schema=answer_schema, stop="a"),  # which does not cut it
            SamplingParams(answer_schema=answer_schema, temperature=self.warm, top_k=3, seed=1),
            SamplingParams(max_tokens=7),
            SamplingParams(max_tokens=2, answer_schema=answer_schema),
        ]
        outputs = engine.generate(layouts, params)
        for output in outputs[:2]:
            assert output.finish_reason == "stop"
            jsonschema.validate(json.loads(output.text), schema)
        assert same(engine.generate([layouts[2]], params[2])[0], outputs[2])
        assert outputs[3].finish_reason == "length"

    @pytest.mark.parametrize("temperature", [0.0, 2.0])
    def test_likelihoods_are_the_decoders_own(
        self, model: RefragModel, engine: Engine, temperature: float
    ) -> None:
        layout = prompt(model, TEXT[:3], True, "Answer:")
        if not self.tells_likelihoods:
            with pytest.raises(SamplingError, match="logprobs"):
                engine.generate([layout], SamplingParams(max_tokens=6, top_logprobs=3))
            return
        params = SamplingParams(
            max_tokens=6, temperature=temperature, top_k=9, seed=1, repetition_penalty=1.5
        )
        asked = replace(params, top_logprobs=3)
        neighbour = prompt(model, TEXT, False, "What rose?")
        output, other = engine.generate([layout, neighbour], [asked, params])
        prefix = plain_ids(layout)
        inputs = torch.tensor([[*prefix, *output.token_ids]])
        logits = model.decoder(inputs).logits[0].detach()
        scores = logits[len(prefix) - 1 :].log_softmax(dim=-1)
        end_ids = end_token_ids(model.decoder, model.tokenizer)
        generated = [token for token in output.token_ids if token not in end_ids]
        assert len(output.logprobs) == len(generated)
        for told, token, expected in zip(output.logprobs, generated, scores, strict=False):
            assert told.logprob == pytest.approx(float(expected[token]), abs=1e-4)
            assert [logprob for _, logprob in told.top] == pytest.approx(
                expected.topk(3).values.tolist(), abs=1e-4
            )
            assert told.token == model.tokenizer.decode([token])
        assert other.logprobs == ()
        assert engine.generate([layout], params)[0].text == output.text
        streamed = [told for delta in engine.stream(layout, asked) for told in delta.logprobs]
        assert [told.token for told in streamed] == [told.token for told in output.logprobs]

    def test_no_layouts_no_answers(self, engine: Engine) -> None:
        assert engine.generate([], SamplingParams()) == []

    def test_a_prompt_without_room_for_an_answer(self, model: RefragModel, engine: Engine) -> None:
        window = model.window
        layout = Layout((TextSegment(np.full(window, 20)),))
        message = rf"{window} positions.*{window}.*fewer passages"
        with pytest.raises(ContextWindowError, match=message):
            engine.generate([layout], SamplingParams())
        with pytest.raises(ContextWindowError):
            engine.stream(layout, SamplingParams())
