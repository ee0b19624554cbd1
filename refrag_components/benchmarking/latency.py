"""One row of a measurement: from retrieved passages to the first token, and beyond."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from refrag_components.benchmarking.on_rung import OnRung
from refrag_components.benchmarking.roofline import Rates, Work
from refrag_components.benchmarking.scenario import Case, make_passages, prompt
from refrag_components.benchmarking.stages import measure_stages
from refrag_components.benchmarking.throughput import measure_throughput
from refrag_components.benchmarking.timing import Timing, enough, free_memory, synchronise
from refrag_components.benchmarking.words import QUESTION
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.exceptions import ContextWindowError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.policies import FractionBudget
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key

if TYPE_CHECKING:
    from refrag_components.engines.layout import Layout
    from refrag_components.modeling import RefragModel
    from refrag_components.stores.common.base import ChunkStore

__all__ = ["LatencySettings", "measure_case"]

Row = dict[str, Any]

_WARM_UP = 2  # when a prompt's length comes again, a GPU records its kernels


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """What all rows of a measurement share.

    Attributes:
        passage_tokens: Tokens per passage.
        policy: Chooses the chunks to expand.
        repeats: Measurements of each time.
        new_tokens: Tokens that are generated after the first one to measure their time; 0 leaves
            it out.
        batch_tokens: Tokens per answer when throughput is measured; 0 leaves it out.
        largest_batch: Prompts at once at most, then.

    Raises:
        ValueError: If a number is outside its range.
    """

    passage_tokens: int = 256
    policy: str = "auto"
    repeats: int = 5
    new_tokens: int = 16
    batch_tokens: int = 0
    largest_batch: int = 256

    def __post_init__(self) -> None:
        least = {"passage_tokens": 1, "repeats": 1, "new_tokens": 0, "batch_tokens": 0}
        for name, lowest in {**least, "largest_batch": 1}.items():
            if getattr(self, name) < lowest:
                msg = f"{name} must be at least {lowest}, got {getattr(self, name)}"
                raise ValueError(msg)


def measure_case(
    model: RefragModel,
    case: Case,
    settings: LatencySettings,
    rates: Rates,
    store: ChunkStore,
) -> Row:
    """Measures a case.

    Args:
        model: Has the case's rate.
        case: The case.
        settings: What all rows share.
        rates: Of the device, for the roofline.
        store: Gets the chunk vectors of the passages, if the case is cached.

    Returns:
        A row that JSON can hold, see ``docs/performance.md``; times in seconds. If the prompt does
        not fit the decoder's window or the device's memory, it has ``failed`` with the reason.
    """
    row: Row = asdict(case)
    free_memory(model.device)
    try:
        row |= _Measurement(model, case, settings, store).row(rates)
    except ContextWindowError:
        row["failed"] = f"longer than the decoder's window of {model.window} positions"
    except torch.OutOfMemoryError:
        row["failed"] = "more than the device's memory"
    return row


class _Measurement:
    """A case with all that it takes."""

    def __init__(
        self, model: RefragModel, case: Case, settings: LatencySettings, store: ChunkStore
    ) -> None:
        self._model, self._case, self._settings = model, case, settings
        passages = make_passages(model.tokenizer, case.context, settings.passage_tokens)
        self._parts = prompt(passages, case.method)
        self._request = Request(self._parts, QUESTION)
        self._keys = [passage_key(text, model.fingerprint) for text in passages]
        self._store: ChunkStore = store if case.cached else MemoryStore()
        self._engine = OnRung(TransformersEngine(model), case.k)
        self._generator = RefragGenerator(
            model,
            store=self._store,
            engine=self._engine,
            policy=settings.policy,
            budget=FractionBudget(case.expanded),
            rest="drop" if case.method == "drop" else "compress",
        )

    def row(self, rates: Rates) -> Row:
        model, case, settings = self._model, self._case, self._settings
        prepared = self._generator.prepare(self._request)  # encodes what the store does not have
        if case.cached:  # their encoding is not a part of the case, nor is its memory
            free_memory(model.device)
        layout = self._engine.layout(prepared.layout)
        work = Work(model)
        positions = layout.n_positions
        stages = measure_stages(
            model,
            self._parts,
            layout,
            question=QUESTION,
            store=self._store,
            cached=case.cached,
            policy=self._generator.policy if 0 < case.expanded < 1 else None,
            repeats=settings.repeats,
        )
        row: Row = {
            "positions": positions,
            "rate": layout.rate,
            **self._answers(),
            "first_token_floor": work.first_token(
                rates,
                positions,
                embeddings=_embeddings(layout),
                encoded=0 if case.cached else layout.context_tokens,
            ),
            "stages": {name: asdict(timing) for name, timing in stages.items()},
            "kv_bytes": positions * work.kv_bytes,
            "kv_bytes_per_token": work.kv_bytes,
        }
        if layout.passages:
            stored = sum(len(passage.vectors.to_bytes()) for passage in layout.passages)
            row["stored_bytes_per_token"] = stored / layout.context_tokens
        if "token" in row:
            row["token_floor"] = work.token(rates, positions)
        if model.device.type == "cuda":  # without what a full batch takes
            row["peak_memory_bytes"] = torch.cuda.max_memory_allocated(model.device)
        if settings.batch_tokens:
            del self._generator, self._engine  # whose static caches would take room from the batch
            throughput = measure_throughput(
                model,
                layout,
                new_tokens=settings.batch_tokens,
                kv_bytes=work.kv_bytes,
                largest=settings.largest_batch,
            )
            row["throughput"] = asdict(throughput)
        return row

    def _answers(self) -> Row:
        """Streams answers: the time to the first token, and that of each further one.

        From the request, with its passages, to the first delta of the answer.
        """
        settings = self._settings
        params = SamplingParams(max_tokens=1 + settings.new_tokens)
        first: list[float] = []
        further: list[float] = []
        tokens = 0
        turn = 0
        while not enough(first, settings.repeats):
            if not self._case.cached:
                self._store.mdelete(self._keys)
            synchronise(self._model.device)
            started = time.perf_counter()
            *_, last = self._generator.stream(self._request, params)
            took = time.perf_counter() - started
            report = last.report
            assert report is not None and report.time_to_first_token is not None
            tokens = report.output_tokens - 1
            if turn >= _WARM_UP:
                first.append(report.time_to_first_token)
                further += [(took - report.time_to_first_token) / tokens] if tokens else []
            turn += 1
        row: Row = {"first_token": asdict(Timing.of(first))}
        if further:  # an answer may end with its first token
            row |= {"token": asdict(Timing.of(further)), "tokens": tokens}
        return row


def _embeddings(layout: Layout) -> int:
    """Positions that are chunk embeddings."""
    tokens = sum(int(s.vectors.chunk_lengths[s.expanded].sum()) for s in layout.passages)
    return layout.context_positions - tokens
