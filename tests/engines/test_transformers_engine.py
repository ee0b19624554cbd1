from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.modeling import RefragModel
from tests.engines.contract import EngineContract, plain_answer, same
from tests.engines.layouts import every_other, plain_ids, prompt, token_ids
from tests.tiny import (
    TEXT,
    random_model,
    tiny_decoder_config,
    tiny_decoder_tokenizer,
)

_untied = partial(tiny_decoder_config, tie_word_embeddings=False)
_OLDER_SHAPE: dict[str, Any] = {
    "vocab_size": len(tiny_decoder_tokenizer()),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_DECODERS: dict[str, PretrainedConfig] = {
    "llama": _untied(LlamaConfig),
    "qwen2": _untied(Qwen2Config),
    "qwen3": _untied(Qwen3Config, head_dim=8),
    "mistral": _untied(MistralConfig, sliding_window=16),
    "gemma": _untied(GemmaConfig, head_dim=8),
    "gemma2": _untied(Gemma2Config, head_dim=8, sliding_window=16, query_pre_attn_scalar=8),
    "gpt2": GPT2Config(**_OLDER_SHAPE, initializer_range=0.3),
    "opt": OPTConfig(**_OLDER_SHAPE, ffn_dim=64, word_embed_proj_dim=32, init_std=0.3),
}


@pytest.fixture(scope="module", params=sorted(_DECODERS))
def any_model(
    request: pytest.FixtureRequest,
    tiny_base: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RefragModel:
    folder = tmp_path_factory.mktemp(request.param)
    return random_model(folder, _DECODERS[request.param], tiny_base[1])


class TestEveryDecoder(EngineContract):
    @pytest.fixture
    def model(self, any_model: RefragModel) -> RefragModel:
        return any_model

    @pytest.fixture
    def engine(self, any_model: RefragModel) -> TransformersEngine:
        return TransformersEngine(any_model, batch_size=3)


def test_expanding_everything_gives_the_plain_decoder_s_logits(any_model: RefragModel) -> None:
    """Bit for bit, not only in what is generated."""
    layout = prompt(any_model, TEXT[:3], True, "Answer:")
    inputs = embed_layouts(any_model, [layout])
    with torch.inference_mode():
        ours = any_model.decoder(
            inputs_embeds=inputs.inputs_embeds, position_ids=inputs.position_ids
        ).logits
        plain = any_model.decoder(input_ids=torch.tensor([plain_ids(layout)])).logits
    assert torch.equal(ours, plain)


def test_repetition_penalty_is_hugging_faces(any_model: RefragModel) -> None:
    layout = prompt(any_model, TEXT[:2], True, "Answer:")
    params = SamplingParams(max_tokens=20, repetition_penalty=1.5)
    output = TransformersEngine(any_model).generate([layout], params)[0]
    expected = plain_answer(any_model, plain_ids(layout), 20, repetition_penalty=1.5)
    assert list(output.token_ids) == expected


# -- one decoder is enough for what follows ----------------------------------------------------


@pytest.fixture(scope="module")
def engine(tiny_model: RefragModel) -> TransformersEngine:
    return TransformersEngine(tiny_model)


def test_repetition_penalty_ignores_what_the_decoder_did_not_see(
    tiny_model: RefragModel, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    from refrag_components.engines import transformers_engine

    class Recording(transformers_engine.Sampler):
        def __init__(self, params: SamplingParams, prompt_ids: torch.Tensor, *others: Any) -> None:
            seen.append(prompt_ids.tolist())
            super().__init__(params, prompt_ids, *others)

    monkeypatch.setattr(transformers_engine, "Sampler", Recording)
    layout = prompt(tiny_model, TEXT[:1], every_other, "?")
    engine.generate([layout], SamplingParams(max_tokens=1, repetition_penalty=1.5))
    passage = layout.passages[0].vectors
    expanded = [int(i) for j in range(1, passage.n_chunks, 2) for i in passage.chunk_token_ids(j)]
    before, between, after = (
        list(token_ids(tiny_model, text)) for text in ("Read this: ", "\n", "?")
    )
    assert seen == [before + expanded + between + after]


def test_seeds_reproduce_and_differ_by_row(
    tiny_model: RefragModel, engine: TransformersEngine
) -> None:
    layout = prompt(tiny_model, TEXT[:2], False, "Answer:")
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=11)
    rows = engine.generate([layout] * 3, params)
    assert len({row.token_ids for row in rows}) == 3
    again = engine.generate([layout] * 3, params)
    assert all(same(a, b) for a, b in zip(rows, again, strict=True))
    assert same(engine.generate([layout], replace(params, seed=12))[0], rows[1])
    streamed = engine.stream(layout, params)
    assert "".join(delta.text for delta in streamed) == rows[0].text
    unseeded = SamplingParams(max_tokens=20, temperature=1.0)
    assert len({row.token_ids for row in engine.generate([layout] * 3, unseeded)}) == 3


def test_a_reproducible_answer_is_decoded_by_itself(tiny_folder: Path) -> None:
    """In bfloat16, where rounding in a batch changes answers; the others share a batch still."""
    model = RefragModel.from_pretrained(tiny_folder, device="cpu", dtype=torch.bfloat16)
    rows: list[int] = []
    model.decoder.register_forward_hook(lambda *call: rows.append(len(call[-1].logits)))
    engine = TransformersEngine(model)
    layouts = [prompt(model, TEXT[i : i + 2], every_other, f"Question {i}?") for i in range(4)]
    own = [
        SamplingParams(max_tokens=20, temperature=float(i % 2), seed=i, reproducible=True)
        for i in range(4)
    ]
    alone = [
        engine.generate([layout], params)[0] for layout, params in zip(layouts, own, strict=True)
    ]
    assert set(rows) == {1}
    crowd = [replace(params, reproducible=False) for params in own]
    together = engine.generate([*layouts, *layouts], [*crowd, *own])
    assert all(same(a, b) for a, b in zip(alone, together[4:], strict=True))
    assert max(rows) == 4


def test_stop_string_across_tokens(tiny_model: RefragModel, engine: TransformersEngine) -> None:
    layout = prompt(tiny_model, TEXT[:2], True, "Answer:")
    plain = engine.generate([layout], SamplingParams(max_tokens=40))[0]
    texts = [d.text for d in engine.stream(layout, SamplingParams(max_tokens=40)) if d.text]
    # The end of one delta and the beginning of the next, if that does not occur earlier.
    at, stop = next(
        (i, texts[i][-1] + texts[i + 1][0])
        for i in range(3, len(texts) - 1)
        if texts[i][-1] + texts[i + 1][0] not in "".join(texts[: i + 1])
    )
    stopped = engine.generate([layout], SamplingParams(max_tokens=40, stop=stop))[0]
    assert stopped.text == "".join(texts[: at + 1])[:-1] == plain.text[: plain.text.find(stop)]
    assert stopped.finish_reason == "stop"
    assert len(stopped.token_ids) < len(plain.token_ids)
    deltas = list(engine.stream(layout, SamplingParams(max_tokens=40, stop=stop)))
    assert "".join(d.text for d in deltas) == stopped.text
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize("as_list", [False, True])
def test_every_end_token_of_the_generation_config_ends(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch, as_list: bool
) -> None:
    layout = prompt(tiny_model, TEXT[:1], True, "Answer:")
    plain = TransformersEngine(tiny_model).generate([layout], SamplingParams(max_tokens=10))[0]
    end = plain.token_ids[3]
    ends = [399, end] if as_list else end
    monkeypatch.setattr(tiny_model.decoder.generation_config, "eos_token_id", ends)
    output = TransformersEngine(tiny_model).generate([layout], SamplingParams(max_tokens=10))[0]
    at = plain.token_ids.index(end)
    assert output.token_ids == plain.token_ids[: at + 1]
    assert output.finish_reason == "stop"
    assert output.text == tiny_model.tokenizer.decode(plain.token_ids[:at])


def test_max_tokens_is_clipped_to_the_window(
    tiny_model: RefragModel, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_end_ids", frozenset())
    layout = Layout((TextSegment(np.full(tiny_model.window - 3, 20)),))
    output = engine.generate([layout], SamplingParams(max_tokens=50))[0]
    assert len(output.token_ids) == 3
    assert output.finish_reason == "length"


def test_times_to_first_token_are_measured(
    tiny_model: RefragModel, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on with each pass of the decoder."""
    passes = [0.0]

    def count(*_: Any) -> None:
        passes[0] += 1

    monkeypatch.setattr("time.perf_counter", lambda: passes[0])
    layouts = [prompt(tiny_model, TEXT[:n], False, "?") for n in (1, 3)]
    hook = tiny_model.decoder.register_forward_pre_hook(count)
    try:
        first, second = engine.generate(layouts, SamplingParams(max_tokens=3))
    finally:
        hook.remove()
    assert first.time_to_first_token == second.time_to_first_token == 1


def test_threads_get_the_answers_of_a_single_caller(
    tiny_model: RefragModel, engine: TransformersEngine
) -> None:
    jobs = [
        (
            [prompt(tiny_model, TEXT[i : i + 2], every_other, f"Question {i}?")] * (1 + i % 2),
            SamplingParams(max_tokens=12, temperature=float(i % 3), seed=i),
        )
        for i in range(8)
    ]
    expected = [[row.token_ids for row in engine.generate(*job)] for job in jobs]
    start = threading.Barrier(4)

    def worker(_: int) -> list[list[tuple[int, ...]]]:
        start.wait()
        return [[row.token_ids for row in engine.generate(*job)] for job in jobs]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(worker, range(4))) == [expected] * 4


def test_an_abandoned_stream_and_gradients_stay_the_callers_business(
    tiny_model: RefragModel, engine: TransformersEngine
) -> None:
    stream = engine.stream(prompt(tiny_model, TEXT[:1], False, "?"), SamplingParams())
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    del stream
