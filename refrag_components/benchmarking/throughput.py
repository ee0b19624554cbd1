"""Tokens per second with many prompts at once, up to what the device's memory holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from refrag_components.benchmarking.timing import free_memory, synchronise
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine
from refrag_components.engines.worker import START_POSITIONS
from refrag_components.exceptions import AnswerTimeoutError

if TYPE_CHECKING:
    from refrag_components.engines.layout import Layout
    from refrag_components.modeling import RefragModel

__all__ = ["Throughput", "measure_throughput"]

_ROOMY = 0.38  # of a full batch: a static cache may be a quarter larger in rows and in positions
_SHARE = 0.95  # of the free memory; the rest is for what the estimate leaves out


@dataclass(frozen=True)
class Throughput:
    """What one full batch gave.

    Attributes:
        tokens_per_second: Generated tokens of all answers, from layouts to last tokens.
        batch: Prompts at once.
        tokens: Generated tokens per answer; fewer than asked for if answers ended by themselves.
    """

    tokens_per_second: float
    batch: int
    tokens: float


def measure_throughput(
    model: RefragModel, layout: Layout, *, new_tokens: int, kv_bytes: int, largest: int
) -> Throughput:
    """Decodes copies of a layout in one batch: as many as fit, or fewer if that is faster.

    On a GPU a batch gets a static cache, and graphs, if there is room for it next to the keys and
    values that the batch has grown with; both are measured. A larger batch is given up as soon as
    it has taken so long that it cannot be the faster one.

    Args:
        model: The model.
        layout: The prompt.
        new_tokens: Tokens per answer.
        kv_bytes: Bytes of keys and values per position.
        largest: Prompts at most.

    Raises:
        torch.OutOfMemoryError: If not even one prompt fits.
    """
    params = SamplingParams(max_tokens=new_tokens)
    positions = layout.n_positions + new_tokens
    first = min(largest, _estimate(model, layout.n_positions, positions, kv_bytes))

    def measured(batch: int, timeout: float | None = None) -> Throughput | None:
        free_memory(model.device)
        engine = TransformersEngine(model, batch_size=batch)
        limited = replace(params, timeout=timeout)
        try:
            return _run(engine, [layout] * batch, limited, model.device)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        finally:
            engine.wait()  # it still holds what did not fit while it ends the other answers
        return None

    roomy = measured(max(int(_ROOMY * first), 1))
    if roomy is None:
        return _largest(first, measured)
    if roomy.batch == first:
        return roomy
    rate = roomy.tokens_per_second
    try:
        found = _largest(first, lambda batch: measured(batch, batch * new_tokens / rate))
    except AnswerTimeoutError:
        return roomy
    return max(found, roomy, key=lambda each: each.tokens_per_second)


def _largest(first: int, measured: Callable[[int], Throughput | None]) -> Throughput:
    """The measurement of the largest batch that fits, or of one that is at most an eighth smaller.

    Args:
        first: The batch that is tried first; no larger one is.
        measured: Measures a batch; None if it does not fit. One prompt fits, or it raises.
    """
    fails, back = first + 1, max(first // 8, 1)
    batch = first
    while (found := measured(batch)) is None:
        fails = batch
        batch = max(batch - back, 1)
        back *= 2
    while fails - found.batch > max(found.batch // 8, 1):
        batch = (found.batch + fails) // 2
        larger = measured(batch)
        if larger is None:
            fails = batch
        else:
            found = larger
    return found


def _run(
    engine: TransformersEngine,
    layouts: Sequence[Layout],
    params: SamplingParams,
    device: torch.device,
) -> Throughput:
    engine.generate(layouts[:1], SamplingParams(max_tokens=2))  # warm-up
    synchronise(device)
    started = time.perf_counter()
    outputs = engine.generate(layouts, params)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.token_ids) for output in outputs)
    return Throughput(tokens / seconds, len(layouts), tokens / len(layouts))


def _estimate(model: RefragModel, prompt: int, positions: int, kv_bytes: int) -> int:
    """Prompts that should fit: their keys and values, and what it takes to add one more.

    That is a cache in which a single prompt is read, the states of one layer for the prompts that
    are read together, and one layer of the batch once more while it is put together.
    """
    if model.device.type != "cuda":
        return 1
    free_memory(model.device)
    free, _ = torch.cuda.mem_get_info(model.device)
    config = model.decoder.config.get_text_config()
    item = model.decoder.get_input_embeddings().weight.element_size()
    states = item * (4 * config.intermediate_size + 8 * config.hidden_size)
    reading = states * max(prompt, START_POSITIONS) + 1.25 * positions * kv_bytes
    each = positions * kv_bytes * (1 + 2 / config.num_hidden_layers)
    return max(int((_SHARE * free - reading) / each), 1)
