"""What callers of one generator do to each other: nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from refrag_components.engines import EngineDelta, SamplingParams, TransformersEngine
from refrag_components.engines.layout import Layout
from refrag_components.exceptions import AnswerTimeoutError, ContextWindowError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Answer, Request
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.stores.memory import MemoryStore
from tests.engines.steps import Steps
from tests.tiny import TEXT

PARAMS = SamplingParams(max_tokens=12)
PATIENCE = 300  # seconds, for a test that fails


def ask(*texts: str, **options: Any) -> Request:
    parts = [TextPart("Read:\n"), *map(PassagePart, texts), TextPart("\nWhat rose?")]
    return Request(parts, "What rose?", **options)


def timeless(answer: Answer) -> Answer:
    return replace(answer, report=replace(answer.report, time_to_first_token=None))


@pytest.fixture
def generator(tiny_model: RefragModel) -> RefragGenerator:
    generator = RefragGenerator(tiny_model, rest="compress")
    generator.prepare(ask(*TEXT))  # every passage is stored
    return generator


def alone(generator: RefragGenerator, request: Request) -> Answer:
    return timeless(generator.generate([request], PARAMS)[0])


@pytest.fixture
def steps(generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch) -> Steps:
    assert isinstance(generator.engine, TransformersEngine)
    return Steps(generator.engine, monkeypatch)


async def test_tasks_are_answered_together_as_alone(
    generator: RefragGenerator, steps: Steps
) -> None:
    requests = [ask(*TEXT[: i % 5]) for i in range(20)]
    expected = [alone(generator, request) for request in requests]
    steps.hold(until=len(requests))
    answers = await asyncio.gather(*(generator.agenerate(each, PARAMS) for each in requests))
    assert list(map(timeless, answers)) == expected
    assert max(steps.sizes) > 4


async def test_streams_in_tasks(generator: RefragGenerator) -> None:
    expected = alone(generator, ask(*TEXT[:2]))
    deltas = [delta async for delta in await generator.astream(ask(*TEXT[:2]), PARAMS)]
    assert "".join(delta.text for delta in deltas) == expected.text
    assert [delta.report for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].report is not None
    assert deltas[-1].report.output_tokens == expected.report.output_tokens


async def test_a_cancelled_task_is_not_decoded_for(
    generator: RefragGenerator, steps: Steps
) -> None:
    steps.hold(until=1)
    steps.allow(2)
    task = asyncio.create_task(generator.agenerate(ask(*TEXT[:2]), replace(PARAMS, max_tokens=99)))
    await asyncio.to_thread(steps.wait, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    steps.allow(None)
    steps.hold(until=0)
    alone(generator, ask())
    assert len(steps.sizes) <= 1 + PARAMS.max_tokens


class TestTime:
    """An answer that is not complete in time is an error at its caller and nowhere else."""

    LATE = SamplingParams(max_tokens=99, timeout=0.05)

    async def test_while_it_is_decoded(self, generator: RefragGenerator, steps: Steps) -> None:
        expected = alone(generator, ask(*TEXT[:2]))
        steps.hold(until=1)
        steps.allow(2)
        with pytest.raises(AnswerTimeoutError, match="raise timeout"):
            generator.generate([ask()], self.LATE)
        with pytest.raises(AnswerTimeoutError):
            list(generator.stream(ask(), self.LATE))
        with pytest.raises(AnswerTimeoutError):
            await generator.agenerate(ask(), self.LATE)
        with pytest.raises(TimeoutError):
            async for _ in await generator.astream(ask(), self.LATE):
                pass
        steps.allow(None)
        assert alone(generator, ask(*TEXT[:2])) == expected

    async def test_while_it_is_prepared(
        self, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store that waits for its server holds up a thread, and no task."""
        gate = threading.Event()
        prepare = generator.prepare

        def held(*arguments: Any, **options: Any) -> Any:
            assert gate.wait(PATIENCE)
            return prepare(*arguments, **options)

        monkeypatch.setattr(generator, "prepare", held)
        with pytest.raises(AnswerTimeoutError):
            await generator.agenerate(ask(), self.LATE)
        gate.set()
        with pytest.raises(AnswerTimeoutError):
            list(generator.stream(ask(), replace(self.LATE, timeout=1e-9)))
        with pytest.raises(AnswerTimeoutError):
            generator.generate([ask()], replace(self.LATE, timeout=1e-9))

    def test_that_suffices(self, generator: RefragGenerator) -> None:
        expected = alone(generator, ask(*TEXT[:2]))
        in_time = replace(PARAMS, timeout=PATIENCE)
        assert timeless(generator.generate([ask(*TEXT[:2])], in_time)[0]) == expected


class Gated:
    """An engine without ``astream`` whose second delta waits to be let through."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waits = threading.Event()
        self.closed = threading.Event()

    def generate(self, layouts: Sequence[Layout], params: Any) -> Any:
        raise NotImplementedError

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        try:
            yield EngineDelta("one", (1,), None)
            self.waits.set()
            assert self.gate.wait(PATIENCE)
            yield EngineDelta(" two", (2,), "stop")
        finally:
            self.closed.set()


async def test_an_engine_that_blocks_does_not_block_the_event_loop(
    generator: RefragGenerator,
) -> None:
    engine = Gated()
    task = asyncio.create_task(generator.agenerate(ask(engine=engine), PARAMS))
    await asyncio.to_thread(engine.waits.wait, PATIENCE)
    await asyncio.sleep(0)  # the loop runs although the engine does not go on
    engine.gate.set()
    assert (await task).text == "one two"
    assert engine.closed.is_set()


async def test_a_cancelled_task_closes_the_stream_of_such_an_engine(
    generator: RefragGenerator,
) -> None:
    engine = Gated()
    task = asyncio.create_task(generator.agenerate(ask(engine=engine), PARAMS))
    await asyncio.to_thread(engine.waits.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task  # at once, although the engine does not go on
    engine.gate.set()
    assert await asyncio.to_thread(engine.closed.wait, PATIENCE)


@pytest.mark.parametrize("too_long", [TEXT[0] * 2000, TEXT[0] * 20])
def test_what_cannot_fit_is_not_encoded(
    tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch, too_long: str
) -> None:
    """Neither when it is too long by far nor together with the text around it."""
    generator = RefragGenerator(tiny_model)
    monkeypatch.setattr(tiny_model, "encode_passages", None)
    text = TextPart("word " * (tiny_model.window // 2))
    with pytest.raises(ContextWindowError, match="retrieve fewer passages"):
        generator.prepare(Request([text, PassagePart(too_long)], "What?"))


def test_who_is_too_long_disturbs_nobody(generator: RefragGenerator, steps: Steps) -> None:
    requests = [ask(TEXT[i]) for i in range(4)]
    expected = [alone(generator, request) for request in requests]
    steps.hold(until=4)

    def work(request: Request) -> Answer | ContextWindowError:
        try:
            return alone(generator, request)
        except ContextWindowError as error:
            return error

    with ThreadPoolExecutor(5) as pool:
        too_long = pool.submit(work, ask(TEXT[0] * 2000))
        assert list(pool.map(work, requests)) == expected
        assert isinstance(too_long.result(PATIENCE), ContextWindowError)
    assert max(steps.sizes) > 1


class StuckStore(MemoryStore):
    """A store that does not answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def mget(self, keys: Sequence[str]) -> Any:
        self.asked.set()
        assert self.go_on.wait(PATIENCE)
        return super().mget(keys)


@pytest.fixture
def stuck() -> Iterator[StuckStore]:
    store = StuckStore()
    yield store
    store.go_on.set()


def test_a_store_that_hangs_holds_up_its_own_request_alone(
    generator: RefragGenerator, stuck: StuckStore
) -> None:
    passage = PassagePart(TEXT[0], stuck)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(generator.generate, [Request([passage], "What?")], PARAMS)
        assert stuck.asked.wait(PATIENCE)
        assert alone(generator, ask(*TEXT[:2])).text
        assert not held.done()
        stuck.go_on.set()
        assert held.result(PATIENCE)


def test_time_to_first_token_counts_waiting(
    generator: RefragGenerator, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still except while another answer is made."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    steps.hold(until=1)
    steps.allow(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(generator.generate, [ask(TEXT[0])], PARAMS)
        steps.wait(1)
        second = pool.submit(generator.generate, [ask(TEXT[1])], PARAMS)
        steps.wait_submitted(2)
        now[0] = 5.0
        steps.allow(None)
        for future, least in ((second, 5.0), (first, 0.0)):
            waited = future.result(PATIENCE)[0].report.time_to_first_token
            assert waited is not None and waited >= least
