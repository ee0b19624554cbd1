"""What is decoded in static caches is what is decoded without; graphs are left out on a CPU."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from refrag_components.engines import SamplingParams, TransformersEngine, static_attention
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout
from refrag_components.engines.static_attention import attend
from refrag_components.engines.static_cache import StaticCache, window_bucket
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.modeling import RefragModel
from tests.engines.contract import EngineContract, same
from tests.engines.layouts import every_other, prompt
from tests.tiny import TEXT, random_model, tiny_decoder_config

_LONG = SamplingParams(max_tokens=40)


def unrecorded(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return work


def with_caches(model: RefragModel, batch_size: int = 32) -> TransformersEngine:
    engine = TransformersEngine(model, batch_size=batch_size)
    engine._worker._caches = StaticCaches(model, record=unrecorded)
    return engine


def lent(engine: TransformersEngine) -> StaticCaches:
    """The engine's caches, once all answers have left them."""
    assert engine.wait(300)
    caches = engine._worker._caches
    assert caches is not None
    return caches


def _gpt2_config(n_positions: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        n_positions=n_positions,
        eos_token_id=2,
        pad_token_id=2,
    )


@pytest.fixture
def layouts(tiny_model: RefragModel) -> list[Layout]:
    return [
        prompt(tiny_model, TEXT[:2], every_other, "Answer:"),
        prompt(tiny_model, [*TEXT, *TEXT], True, "What rose?"),
        prompt(tiny_model, TEXT[3:], False, "What fell?"),
        prompt(tiny_model, [], True, "What?"),
    ]


class TestEngine(EngineContract):
    @pytest.fixture
    def model(self, tiny_model: RefragModel) -> RefragModel:
        return tiny_model

    @pytest.fixture
    def engine(self, tiny_model: RefragModel) -> TransformersEngine:
        return with_caches(tiny_model, batch_size=3)


@pytest.mark.parametrize(
    ("config", "suits"),
    [
        (tiny_decoder_config(LlamaConfig), True),
        (tiny_decoder_config(Qwen3Config, head_dim=8), True),
        (tiny_decoder_config(MistralConfig, sliding_window=16), False),
        (_gpt2_config(512), True),
    ],
    ids=["llama", "qwen3", "sliding", "gpt2"],
)
def test_decoders_that_do_not_suit_decode_without(
    config: PretrainedConfig, suits: bool, tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    model = random_model(tmp_path, config, tiny_base[1])
    layout = prompt(model, TEXT[:3], every_other, "Answer:")
    engine = with_caches(model)
    for expected in TransformersEngine(model).generate([layout] * 3, _LONG):
        (found,) = engine.generate([layout], _LONG)
        assert same(found, expected)
    assert (lent(engine).reason is None) == suits


def test_batches_are_decoded_as_without(tiny_model: RefragModel, layouts: list[Layout]) -> None:
    expected = TransformersEngine(tiny_model).generate(layouts * 2, _LONG)
    engine = with_caches(tiny_model)
    for _ in range(2):
        found = engine.generate(layouts * 2, _LONG)
        assert all(same(left, right) for left, right in zip(found, expected, strict=True))
    assert lent(engine).reason is None


def test_a_prompt_whose_length_comes_again_is_read_by_its_record(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    """Others before it, of other lengths, leave nothing behind."""
    engine, plain = with_caches(tiny_model), TransformersEngine(tiny_model)
    recorded: list[Callable[[], Tensor]] = []

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recorded.append(work)
        return work

    lent(engine)._record = record
    expected = [plain.generate([layout], _LONG)[0] for layout in layouts]
    for _ in range(4):
        for layout, answer in zip(layouts, expected, strict=True):
            assert same(engine.generate([layout], _LONG)[0], answer)
    buckets = 2  # 64 and 320 positions
    windows = 2
    assert len(recorded) == buckets + windows


def test_an_answer_that_outgrows_its_cache_moves_to_a_larger_one(
    tiny_model: RefragModel, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = TransformersEngine(tiny_model).generate(layouts[:1], _LONG)
    monkeypatch.setattr("refrag_components.engines.static_caches._ROOM", 3)
    monkeypatch.setattr("refrag_components.engines.static_caches._SMALLEST", 0)
    engine = with_caches(tiny_model)
    assert same(engine.generate(layouts[:1], _LONG)[0], expected)
    assert len({cache.capacity for cache in lent(engine)._idle}) > 1


def test_rows_join_leave_and_are_continued_as_without(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    def start(layout: Layout, caches: StaticCaches | None) -> DecoderBatch:
        return DecoderBatch(tiny_model, embed_layouts(tiny_model, [layout]), caches)

    found = []
    for caches in (None, StaticCaches(tiny_model, record=unrecorded)):
        with torch.inference_mode():
            batch, other = start(layouts[0], caches), start(layouts[1], caches)
            logits = []
            for token in (20, 21):
                batch.step(torch.tensor([token]))
                other.step(torch.tensor([token]))
            batch.join(other)
            for token in (22, 23, 24):
                batch.step(torch.tensor([token, token + 1]))
                logits.append(batch.logits.clone())
            logits.append(batch.after(torch.tensor([1]), torch.tensor([[5, 6, 7]])))
            batch.step(torch.tensor([5, 6]))
            batch.keep(torch.tensor([0]))
            batch.trim()
            for token in (25, 26, 27):
                batch.step(torch.tensor([token]))
                logits.append(batch.logits.clone())
            batch.close()
        found.append(logits)
    expected, logits = found
    for left, right in zip(logits, expected, strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def test_a_batch_that_has_just_changed_does_not_move(
    tiny_model: RefragModel, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again at once, and has to be copied each time."""
    loaded: list[int] = []
    load = StaticCache.load

    def watched(cache: StaticCache, *given: Any) -> None:
        loaded.append(len(given[2]))
        load(cache, *given)

    monkeypatch.setattr(StaticCache, "load", watched)
    caches = StaticCaches(tiny_model, record=unrecorded)
    batch, other = (
        DecoderBatch(tiny_model, embed_layouts(tiny_model, [layout] * 2), caches)
        for layout in layouts[:2]
    )
    batch.step(torch.tensor([20, 21]))
    batch.join(other)
    batch.step(torch.tensor([20, 21, 22, 23]))
    batch.keep(torch.tensor([0, 1, 3]))
    batch.step(torch.tensor([20, 21, 22]))
    assert not loaded
    batch.step(torch.tensor([20, 21, 22]))
    assert loaded == [3]


def test_rows_that_leave_move_nobody_until_most_have_left(
    tiny_model: RefragModel, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TransformersEngine(tiny_model).generate(layouts * 2, _LONG)
    params = [SamplingParams(max_tokens=count) for count in (40, 12, 14, 16, 18, 20, 22, 40)]
    loaded: list[int] = []
    load = StaticCache.load

    def watched(cache: StaticCache, *given: Any) -> None:
        loaded.append(cache.rows)
        load(cache, *given)

    monkeypatch.setattr(StaticCache, "load", watched)
    engine = with_caches(tiny_model)
    for output, own, count in zip(
        engine.generate(layouts[:1] * 8, params), expected[:1] * 8, params, strict=True
    ):
        assert output.token_ids == own.token_ids[: count.max_tokens]
    assert lent(engine).reason is None
    assert len(loaded) <= 3  # of eight rows, and when less than half of them were left


def test_nothing_of_an_answer_stays(tiny_model: RefragModel, layouts: list[Layout]) -> None:
    engine = with_caches(tiny_model)
    engine.generate(layouts[:1], _LONG)
    (cache,) = lent(engine)._idle
    assert cache.n_bytes
    assert all(not states.any() for pair in cache.states(1) for states in pair)


def test_a_decoder_that_reads_a_cache_in_its_own_way_decodes_without(
    tiny_model: RefragModel,
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = TransformersEngine(tiny_model).generate(layouts, _LONG)
    step = StaticCache.step
    monkeypatch.setattr(StaticCache, "step", lambda cache, tokens: -step(cache, tokens))
    engine = with_caches(tiny_model)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            for layout, answer in zip(layouts, expected, strict=True):
                assert same(engine.generate([layout], _LONG)[0], answer)
    assert caplog.text.count("differ") == 1


def test_what_a_wrong_record_of_a_prompt_leaves_behind_is_not_read(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    """Its logits show that it is wrong; its keys and values are as wrong."""

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def wrong() -> Tensor:
            logits = work()
            for cache in made:
                cache.clear()
            return -logits

        return wrong

    made: list[StaticCache] = []
    expected = TransformersEngine(tiny_model).generate(layouts[:1], _LONG)[0]
    engine = with_caches(tiny_model)
    for _ in range(2):
        assert same(engine.generate(layouts[:1], _LONG)[0], expected)
        made += lent(engine)._idle
        made[0]._record = record
    assert lent(engine).reason is not None


def test_caches_that_are_not_lent_any_more_take_no_memory(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    caches = StaticCaches(tiny_model, record=unrecorded)
    batch = DecoderBatch(tiny_model, embed_layouts(tiny_model, layouts[:1]), caches)
    assert batch._static is not None
    caches.refuse("its logits differ")
    batch.close()
    assert not caches._idle


def test_what_an_engine_leaves_behind_does_not_wait_for_the_garbage_collector(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    """Gigabytes on a GPU, and nothing that would make Python look for them."""
    caches = StaticCaches(tiny_model, record=unrecorded)
    batch = DecoderBatch(tiny_model, embed_layouts(tiny_model, layouts[:1]), caches)
    batch.step(torch.tensor([20]))
    batch.close()
    (idle,) = caches._idle
    held = [weakref.ref(states) for layer in idle._layers for states in (layer.keys, layer.values)]
    assert all(reference() is not None for reference in held)
    gc.disable()
    try:
        del batch, caches, idle
        assert not any(reference() is not None for reference in held)
    finally:
        gc.enable()


def test_a_batch_ends_without_memory_for_a_copy(
    tiny_model: RefragModel, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    caches = StaticCaches(tiny_model, record=unrecorded)
    batch = DecoderBatch(tiny_model, embed_layouts(tiny_model, layouts[:1]), caches)
    monkeypatch.setattr(StaticCache, "states", fail)
    batch.close()
    assert len(caches._idle) == 1


def test_a_cache_that_did_not_fit_is_gone_before_memory_is_looked_for(
    tiny_model: RefragModel, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[weakref.ref[StaticCache]] = []
    held: list[bool] = []

    def fail(static: StaticCache, *_: object) -> Tensor:
        taken.append(weakref.ref(static))
        raise torch.OutOfMemoryError

    def free(_: StaticCaches) -> bool:
        held.extend(static() is not None for static in taken)
        return False

    monkeypatch.setattr(StaticCache, "begin", fail)
    monkeypatch.setattr(StaticCaches, "free", free)
    caches = StaticCaches(tiny_model, record=unrecorded)
    DecoderBatch(tiny_model, embed_layouts(tiny_model, layouts[:1]), caches)
    assert held == [False]


@pytest.mark.parametrize("error", [RuntimeError("no graph"), torch.OutOfMemoryError()])
@pytest.mark.parametrize("method", ["begin", "step", "load"])
def test_a_failure_costs_no_answer(
    tiny_model: RefragModel,
    layouts: list[Layout],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: Exception,
) -> None:
    def fail(*_: object) -> Tensor:
        raise error

    expected = TransformersEngine(tiny_model).generate(layouts, _LONG)
    engine = with_caches(tiny_model)
    engine.generate(layouts[:1], _LONG)
    monkeypatch.setattr(StaticCache, method, fail)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            found = engine.generate(layouts, _LONG)
            assert all(same(left, right) for left, right in zip(found, expected, strict=True))
            assert same(engine.generate(layouts[:1], _LONG)[0], expected[0])
    own = [record for record in caplog.records if record.name.startswith("refrag_components")]
    assert len(own) == 1  # what other libraries' threads tell meanwhile does not count


def test_reproducible_answers_are_computed_in_the_same_way_each_time(
    tiny_model: RefragModel, layouts: list[Layout]
) -> None:
    """A cache that has been used before rounds differently, and so does a recorded prompt."""
    params = SamplingParams(max_tokens=20, reproducible=True, top_logprobs=0)
    engine = with_caches(tiny_model)
    first, *others = [engine.generate(layouts[:1], params)[0] for _ in range(4)]
    engine.generate(layouts[:1], _LONG)
    others += engine.generate(layouts[:1], params)
    assert all(other.logprobs == first.logprobs for other in others)


def test_rows_that_have_left_take_no_positions_beyond_the_window(
    tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    """A table of positions ends there, and a GPU does not survive the look-up."""
    model = random_model(tmp_path, _gpt2_config(100), tiny_base[1])
    short = prompt(model, [], True, "What?")
    long = prompt(model, TEXT[:2], True, "Answer:")
    shorter, longer = short.n_positions, long.n_positions
    assert shorter + 20 < longer < 90  # one batch, and the longer one has to leave early
    params = [SamplingParams(max_tokens=90 - shorter), SamplingParams(max_tokens=100 - longer)]
    expected = TransformersEngine(model).generate([short, long], params)
    engine = with_caches(model)
    for _ in range(3):
        found = engine.generate([short, long], params)
        assert all(same(left, right) for left, right in zip(found, expected, strict=True))
    assert lent(engine).reason is None


def test_a_prompt_is_not_padded_beyond_the_window(
    tiny_base: tuple[Path, Path], tmp_path: Path
) -> None:
    model = random_model(tmp_path, _gpt2_config(60), tiny_base[1])
    layout = prompt(model, TEXT[:2], True, "Answer:")
    assert layout.n_positions < 60  # of the lengths that are recorded, 64 comes next
    (expected,) = TransformersEngine(model).generate([layout], _LONG)
    engine = with_caches(model)
    for _ in range(3):
        assert same(engine.generate([layout], _LONG)[0], expected)
    assert lent(engine).reason is None


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("shared", [1, 4])
def test_attention_in_parts_is_attention(
    rows: int, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are masked altogether count for nothing."""
    monkeypatch.setattr(static_attention, "_WHOLE", 64)
    monkeypatch.setattr(static_attention, "_PART", 32)
    torch.manual_seed(0)
    query = torch.randn(rows, 4, 1, 8)
    key, value = torch.randn(2, rows, shared, 512, 8)[..., :256, :]
    mask = torch.full((rows, 1, 1, 256), torch.finfo(torch.float32).min)
    mask[..., 5:70] = 0
    repeated = [states.repeat_interleave(4 // shared, dim=1) for states in (key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask)
    assert static_attention._parts(rows * shared, 256) > 1
    torch.testing.assert_close(attend(query, key, value, mask, None), expected)


def test_engines_that_share_a_decoder_leave_its_attention_as_it_was(
    tiny_model: RefragModel,
) -> None:
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with static_attention.static_attention(tiny_model.decoder, "step"):
            first_is_in.set()
            second_is_in.wait(0.2)  # in vain: only one may be

    def second() -> None:
        first_is_in.wait()
        with static_attention.static_attention(tiny_model.decoder, "prompt"):
            second_is_in.set()
            begun.result()

    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(first)
        pool.submit(second).result()
    assert tiny_model.decoder.config._attn_implementation == static_attention.PLAIN


def test_windows_are_close_to_what_is_in_use() -> None:
    for length in (1, 256, 257, 3000, 33_000):
        window = window_bucket(length)
        assert length <= window <= max(length + 255, 1.125 * length)
        assert window % 256 == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_graphs_give_the_same_answers(tiny_folder: Path) -> None:
    """Alone, several times so that prompts and steps are recorded, and together."""
    model = RefragModel.from_pretrained(tiny_folder, device="cuda", dtype=torch.float32)
    layouts = [
        prompt(model, TEXT[:2], every_other, "Answer:"),
        prompt(model, [*TEXT, *TEXT], True, "What rose?"),
        prompt(model, TEXT[3:], False, "What fell?"),
        prompt(model, [], True, "What?"),
    ]
    plain, engine = TransformersEngine(model), TransformersEngine(model)
    plain._worker._caches = None
    expected = [plain.generate([layout], _LONG)[0] for layout in layouts]
    for _ in range(4):
        for layout, answer in zip(layouts, expected, strict=True):
            assert same(engine.generate([layout], _LONG)[0], answer)
    found = engine.generate(layouts * 2, _LONG)
    assert all(same(left, right) for left, right in zip(found, expected * 2, strict=True))
    assert lent(engine).reason is None
    assert any(cache._prompts for cache in lent(engine)._idle)
