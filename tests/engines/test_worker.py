"""Calls that come at any time are decoded together, and nobody waits for anybody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, MistralConfig

from refrag_components.engines import EngineOutput, SamplingParams, TransformersEngine, worker
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.layout import Layout
from refrag_components.engines.row import Row
from refrag_components.engines.turns import Turns
from refrag_components.modeling import RefragModel
from tests.engines.contract import same
from tests.engines.layouts import every_other, prompt
from tests.engines.steps import Steps
from tests.tiny import TEXT, save_tiny_decoder, save_tiny_encoder, tiny_config, tiny_decoder_config

ROOT = Path(__file__).parents[2]
SHORT = SamplingParams(max_tokens=2)
LONG = SamplingParams(max_tokens=40, stop=())


@pytest.fixture
def engine(tiny_model: RefragModel) -> TransformersEngine:
    return TransformersEngine(tiny_model)


@pytest.fixture
def steps(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(engine, monkeypatch)


@pytest.fixture
def layouts(tiny_model: RefragModel) -> list[Layout]:
    """Prompts whose answers are long, of very different lengths."""
    return [
        prompt(tiny_model, TEXT[:2], every_other, "Answer:"),
        prompt(tiny_model, [*TEXT, *TEXT], True, "What rose?"),
        prompt(tiny_model, TEXT[3:], False, "What fell?"),
        prompt(tiny_model, [], True, "What?"),
    ]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def alone(engine: TransformersEngine, layout: Layout, params: SamplingParams) -> EngineOutput:
    (output,) = engine.generate([layout], params)
    return output


def test_who_comes_later_joins_and_who_is_done_leaves(
    engine: TransformersEngine, steps: Steps, layouts: list[Layout], pool: ThreadPoolExecutor
) -> None:
    expected = [alone(engine, layouts[0], LONG), *(alone(engine, each, SHORT) for each in layouts)]
    assert len(expected[0].token_ids) > 12
    steps.hold(until=1)
    steps.allow(3)
    long = pool.submit(alone, engine, layouts[0], LONG)
    steps.wait(3)
    late = [pool.submit(alone, engine, layout, SHORT) for layout in layouts]
    steps.wait_submitted(1 + len(late))
    steps.allow(8)  # the held one, one with each start, and one more for the second token
    answers = [future.result(60) for future in late]
    assert not long.done()
    steps.allow(None)
    for output, own in zip([long.result(60), *answers], expected, strict=True):
        assert same(output, own)
    assert max(steps.sizes) > 2


def test_one_call_with_many_prompts_does_not_keep_others_waiting(
    tiny_model: RefragModel,
    layouts: list[Layout],
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = TransformersEngine(tiny_model, batch_size=2)
    expected = alone(engine, layouts[0], SHORT)
    steps = Steps(engine, monkeypatch)
    steps.hold(until=20)
    steps.allow(3)
    many = pool.submit(engine.generate, [layouts[0]] * 20, SHORT)
    steps.wait(3)  # two have been answered, two of eighteen run
    one = pool.submit(alone, engine, layouts[0], SHORT)
    steps.wait_submitted(21)
    steps.allow(8)
    assert same(one.result(60), expected)
    assert not many.done()
    steps.allow(None)
    assert len(many.result(60)) == 20
    assert max(steps.sizes) == 2


class TestWithdrawing:
    """Who no longer waits is not decoded for, and the others get what they would get alone."""

    @pytest.fixture
    def other(
        self,
        engine: TransformersEngine,
        steps: Steps,
        layouts: list[Layout],
        pool: ThreadPoolExecutor,
    ) -> Iterator[None]:
        expected = alone(engine, layouts[2], LONG)
        assert len(expected.token_ids) > 8
        steps.hold(until=2)
        steps.allow(3)
        other = pool.submit(alone, engine, layouts[2], LONG)
        yield
        steps.allow(None)
        assert same(other.result(60), expected)
        # In the third step both took part; who withdrew after it left with the next.
        assert steps.sizes[2] == 2
        assert set(steps.sizes[4:]) == {1}

    @pytest.mark.usefixtures("other")
    def test_a_closed_stream(
        self, engine: TransformersEngine, steps: Steps, layouts: list[Layout]
    ) -> None:
        stream = engine.stream(layouts[0], LONG)
        next(stream)
        steps.wait(3)
        stream.close()

    @pytest.mark.usefixtures("other")
    async def test_a_cancelled_task(
        self, engine: TransformersEngine, steps: Steps, layouts: list[Layout]
    ) -> None:
        async def read() -> None:
            async for _ in engine.astream(layouts[0], LONG):
                pass

        task = asyncio.create_task(read())
        await asyncio.to_thread(steps.wait, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @pytest.mark.usefixtures("other")
    def test_an_interrupted_call(
        self, engine: TransformersEngine, steps: Steps, layouts: list[Layout]
    ) -> None:
        def interrupt() -> None:
            steps.wait(3)
            os.kill(os.getpid(), signal.SIGINT)

        helper = threading.Thread(target=interrupt)
        # A process that a shell started in the background ignores the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            helper.start()
            with pytest.raises(KeyboardInterrupt):
                engine.generate([layouts[0]], LONG)
            helper.join()
        finally:
            signal.signal(signal.SIGINT, before)

    @pytest.mark.usefixtures("other")
    def test_an_event_loop_that_is_gone(
        self, engine: TransformersEngine, steps: Steps, layouts: list[Layout]
    ) -> None:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(anext(aiter_of(engine, layouts[0])))
        loop.run_until_complete(task)
        steps.wait(3)
        loop.close()

    def test_a_stream_that_nobody_reads_costs_nothing(
        self, engine: TransformersEngine, steps: Steps, layouts: list[Layout]
    ) -> None:
        stream = engine.stream(layouts[0], LONG)
        alone(engine, layouts[1], SHORT)
        assert steps.sizes == [1, 1]
        stream.close()

    def test_who_withdraws_while_waiting_is_never_started(
        self,
        tiny_model: RefragModel,
        layouts: list[Layout],
        pool: ThreadPoolExecutor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        engine = TransformersEngine(tiny_model, batch_size=1)
        steps = Steps(engine, monkeypatch)
        steps.hold(until=1)
        steps.allow(1)
        first = pool.submit(alone, engine, layouts[0], SHORT)
        steps.wait(1)
        waiting = engine._row(layouts[1], LONG, lambda event: None)
        engine._worker.submit([waiting])
        waiting.withdraw()
        steps.allow(None)
        first.result(60)
        alone(engine, layouts[2], SHORT)
        assert len(steps.sizes) == 4  # two answers of two tokens


def aiter_of(engine: TransformersEngine, layout: Layout) -> Any:
    """An asynchronous stream that begins when it is first read, in whatever loop that is."""

    async def read() -> Any:
        async for delta in engine.astream(layout, LONG):
            yield delta

    return read()


class _Fails(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        msg = "cannot choose"
        raise ValueError(msg)


def test_a_row_that_fails_fails_alone(
    engine: TransformersEngine, steps: Steps, layouts: list[Layout], pool: ThreadPoolExecutor
) -> None:
    expected = alone(engine, layouts[0], LONG)
    steps.hold(until=2)
    good = pool.submit(alone, engine, layouts[0], LONG)
    events: list[Any] = []
    bad = engine._row(layouts[0], LONG, events.append)
    bad.sampler._processors.append(_Fails())
    engine._worker.submit([bad])
    assert same(good.result(60), expected)
    assert [str(event) for event in events] == ["cannot choose"]


def test_prompts_that_cannot_start_together_start_alone(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(engine, layouts[i], SHORT) for i in (0, 2)]
    start = DecoderBatch.__init__
    taken: list[weakref.ref[torch.Tensor]] = []
    held: list[bool] = []

    def narrow(batch: DecoderBatch, model: RefragModel, inputs: Any, caches: Any) -> None:
        if len(inputs.position_ids) > 1:
            states = torch.zeros(8)
            taken.append(weakref.ref(states))
            raise torch.OutOfMemoryError
        held.extend(states() is not None for states in taken)
        start(batch, model, inputs, caches)

    monkeypatch.setattr(DecoderBatch, "__init__", narrow)
    together = engine.generate([layouts[0], layouts[2]], SHORT)
    assert all(map(same, together, expected))
    assert taken
    assert held
    assert not any(held)  # what did not fit is freed before


def test_rows_that_cannot_be_put_together_fail_without_others(
    engine: TransformersEngine,
    steps: Steps,
    layouts: list[Layout],
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first and the third are about as long; the second is several times as long."""
    expected = alone(engine, layouts[1], LONG)

    def fail(batch: DecoderBatch, other: DecoderBatch) -> None:
        raise torch.OutOfMemoryError

    steps.hold(until=1)
    steps.allow(1)
    first = pool.submit(alone, engine, layouts[0], LONG)
    steps.wait(1)
    later = [pool.submit(alone, engine, layouts[i], LONG) for i in (2, 1)]
    steps.wait_submitted(3)
    with monkeypatch.context() as patch:
        patch.setattr(DecoderBatch, "join", fail)
        steps.allow(None)
        for future in (first, later[0]):
            with pytest.raises(torch.OutOfMemoryError):
                future.result(60)
        assert same(later[1].result(60), expected)


def test_a_step_that_fails_leaves_the_engine_usable(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, layouts[0], LONG)

    def fail(batch: DecoderBatch, tokens: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(DecoderBatch, "step", fail)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            alone(engine, layouts[0], LONG)
    assert "lanes.py" not in {Path(entry.path).name for entry in caught.traceback}  # nor its cache
    assert same(alone(engine, layouts[0], LONG), expected)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_died(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, layouts[0], LONG)

    def die(batch: DecoderBatch, tokens: torch.Tensor) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(DecoderBatch, "step", die)
        with pytest.raises(SystemExit):
            alone(engine, layouts[0], LONG)
    assert same(alone(engine, layouts[0], LONG), expected)


def test_a_forked_process_waits_for_nobody_it_has_left_behind(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, layouts[0], LONG)
    engine._worker._lock.acquire()
    monkeypatch.setattr(engine._worker, "_process", -1)
    assert engine.wait(0)
    assert same(alone(engine, layouts[0], LONG), expected)


def test_threads_of_a_forked_process_that_come_at_the_same_time(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, layouts[0], LONG)
    assert engine.wait(60)
    beginning, added, going_on = threading.Event(), threading.Event(), threading.Event()
    inherited = engine._worker._turns
    add = inherited.add

    class Slow(Turns):
        def __init__(self) -> None:
            super().__init__()
            beginning.set()
            added.wait(0.5)  # to no avail: nobody gets past the beginning

    def add_and_linger(rows: Sequence[Row]) -> None:
        add(rows)
        added.set()
        going_on.wait(0.5)

    monkeypatch.setattr(inherited, "add", add_and_linger)
    answers: list[Any] = []

    def second() -> None:
        beginning.wait(60)
        answers.append(alone(engine, layouts[0], LONG))

    monkeypatch.setattr(worker, "Turns", Slow)
    monkeypatch.setattr(engine._worker, "_process", -1)
    threads = [threading.Thread(target=second, daemon=True)]
    threads.append(
        threading.Thread(
            target=lambda: answers.append(alone(engine, layouts[0], LONG)), daemon=True
        )
    )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(answers) == 2
    assert all(same(answer, expected) for answer in answers)


def test_a_thread_that_cannot_start_leaves_the_engine_usable(
    engine: TransformersEngine, layouts: list[Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, layouts[0], LONG)
    assert engine.wait(60)

    def fail(work: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(worker._threads, "run", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            alone(engine, layouts[0], LONG)
    assert engine.wait(0)
    assert same(alone(engine, layouts[0], LONG), expected)


def test_a_cache_that_cannot_take_rows_in(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a decoder that looks back a few positions only: later rows get batches of their own."""
    decoder = save_tiny_decoder(
        tmp_path / "decoder", tiny_decoder_config(MistralConfig, sliding_window=24)
    )
    encoder = save_tiny_encoder(tmp_path / "encoder")
    config = tiny_config(decoder, encoder)
    model = RefragModel.from_base(config).eval()
    engine = TransformersEngine(model)
    prompts = [prompt(model, TEXT[i : i + 2], every_other, "What?") for i in range(4)]
    expected = [alone(engine, each, LONG) for each in prompts]
    steps = Steps(engine, monkeypatch)
    steps.hold(until=1)
    steps.allow(2)
    first = pool.submit(alone, engine, prompts[0], LONG)
    steps.wait(2)
    late = [pool.submit(alone, engine, each, LONG) for each in prompts[1:]]
    steps.wait_submitted(4)
    steps.allow(None)
    for future, own in zip([first, *late], expected, strict=True):
        assert same(future.result(60), own)
    assert max(steps.sizes) > 1


EXIT = """
import sys, threading
from refrag_components.engines import SamplingParams
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.parts import TextPart

generator = load_checkpoint(sys.argv[1]).generator
deltas = generator.stream(Request([TextPart("When?")], "When?"), SamplingParams(max_tokens=400))
next(deltas)
print("answered")
sys.stdout.flush()
sys.last = deltas  # not closed: it is still being decoded when Python ends
"""


def test_a_process_ends_in_the_middle_of_an_answer(tiny_folder: Path) -> None:
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", EXIT, str(tiny_folder)], capture_output=True, text=True, cwd=ROOT
        )
        assert (ended.stdout, ended.returncode) == ("answered\n", 0), ended.stderr
