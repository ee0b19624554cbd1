"""A time to first token as the budget, on a clock that only work moves."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from refrag_components.engines import EngineDelta, EngineOutput, SamplingParams
from refrag_components.engines.layout import Layout
from refrag_components.engines.vllm_engine import VllmEngine
from refrag_components.exceptions import BudgetError
from refrag_components.generation.cost_model import CostModel, costs_file, load_costs, machine_of
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import Milliseconds, Policy, PolicyInputs
from refrag_components.prompts.parts import PassagePart, TextPart
from tests.engines import fake_vllm
from tests.tiny import TEXT

# Nothing is free, and long prompts take more than in proportion.
COSTS = CostModel((8, 64, 512), (0.010, 0.020, 0.200))


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class _SlowPolicy(Policy):
    """Takes its time to score."""

    name = "slow"

    def __init__(self, clock: _Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        self._clock.now += self._seconds
        return np.arange(inputs.n_chunks, dtype=np.float32)


class _TimedEngine:
    """Takes exactly as long as the cost model says."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def generate(
        self, layouts: Sequence[Layout], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[EngineOutput]:
        (layout,) = layouts
        took = COSTS.first_token(layout.n_positions)
        self._clock.now += took
        return [EngineOutput("", (1,), "length", took, layout.n_positions)]

    def stream(self, layout: Layout, params: SamplingParams) -> Generator[EngineDelta]:
        raise NotImplementedError


def request(budget: Milliseconds, **others: Any) -> Request:
    parts = [TextPart("Read: "), *map(PassagePart, TEXT * 2), TextPart(" What rose?")]
    return Request(parts, "What rose?", budget=budget, **others)


@pytest.mark.parametrize("scoring", [0.0, 0.005])
@pytest.mark.parametrize("milliseconds", [20, 30, 40, 60, 1000])
def test_the_first_token_comes_in_time_and_the_time_is_used(
    tiny_model: RefragModel, scoring: float, milliseconds: float
) -> None:
    clock = _Clock()
    generator = RefragGenerator(
        tiny_model,
        engine=_TimedEngine(clock),
        policy=_SlowPolicy(clock, scoring),
        costs=COSTS,
        clock=clock,
    )
    started = clock.now
    (answer,) = generator.generate([request(Milliseconds(milliseconds))], SamplingParams())
    took = clock.now - started
    assert took <= milliseconds / 1000 + 1e-9
    assert answer.report.budget == f"{milliseconds}ms"
    everything = answer.report.expanded == answer.report.chunks
    chunk = COSTS.first_token(512) / 512 * 16  # a chunk more would not have fitted
    assert everything or took > milliseconds / 1000 - chunk
    assert everything == (milliseconds == 1000)


def test_a_longer_time_never_holds_less(tiny_model: RefragModel) -> None:
    generator = RefragGenerator(tiny_model, policy="similarity", costs=COSTS, clock=_Clock())
    positions = [
        generator.prepare(request(Milliseconds(time))).layout.context_positions
        for time in (1, 15, 20, 30, 50, 80, 200)
    ]
    assert all(a <= b for a, b in pairwise(positions))
    assert positions[0] <= 1
    assert positions[-1] > 100


def test_without_a_measurement_a_time_is_refused_before_anything_is_encoded(
    tiny_model: RefragModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path))
    generator = RefragGenerator(tiny_model)
    with pytest.raises(BudgetError, match="refrag bench calibrate"):
        generator.prepare(request(Milliseconds(40)))
    assert not list(generator.store.yield_keys())
    machine = machine_of(tiny_model)
    COSTS.save(costs_file(machine), machine)
    assert load_costs(tiny_model) == COSTS
    prepared = generator.prepare(request(Milliseconds(1000)))
    assert prepared.report.expanded == prepared.report.chunks


def test_a_time_is_refused_with_vllm_of_which_nothing_was_measured(
    layered_model: RefragModel, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path))
    machine = machine_of(layered_model)
    COSTS.save(costs_file(machine), machine)
    fake_vllm.install(monkeypatch)
    engine = VllmEngine(layered_model)
    try:
        generator = RefragGenerator(layered_model)
        generator.prepare(request(Milliseconds(40)))
        own = RefragGenerator(layered_model, engine=engine)
        for asked, one in ((generator, request(Milliseconds(40), engine=engine)), (own, None)):
            with pytest.raises(BudgetError, match="number of positions"):
                asked.prepare(one or request(Milliseconds(40)))
        measured = RefragGenerator(layered_model, engine=engine, costs=COSTS)
        tenant = engine.for_tenant("somebody")
        measured.prepare(request(Milliseconds(40), engine=tenant))
    finally:
        engine.close()


def test_costs_are_read_in_both_directions() -> None:
    assert COSTS.within(0.009) == 0
    assert COSTS.within(0.010) == 8
    assert CostModel((8, 64), (0.25, 0.5)).within(0.375) == 36
    assert COSTS.within(10.0) == 512
    for seconds in (0.011, 0.02, 0.1):
        assert COSTS.first_token(COSTS.within(seconds)) <= seconds


def test_a_dip_is_noise() -> None:
    costs = CostModel((8, 16, 32), (0.02, 0.01, 0.03))
    assert costs.within(0.015) == 0
    assert costs.within(0.02) == 16
    assert costs.first_token(16) == 0.02


@pytest.mark.parametrize(
    ("positions", "seconds"),
    [((), ()), ((8, 8), (0.1, 0.1)), ((8,), (0.1, 0.2)), ((8,), (0.0,)), ((8,), (float("nan"),))],
)
def test_what_is_no_measurement_is_refused(
    positions: tuple[int, ...], seconds: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="not a cost model"):
        CostModel(positions, seconds)
