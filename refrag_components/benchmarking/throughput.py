"""Tokens per second with as many prompts at once as the device's memory holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from refrag_components.benchmarking.timing import free_memory, synchronise
from refrag_components.engines.sampling import SamplingParams
from refrag_components.engines.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    from refrag_components.engines.layout import Layout
    from refrag_components.modeling import RefragModel

__all__ = ["Throughput", "measure_throughput"]

_SHARE = 0.9  # of the free memory; the rest is for what the estimate leaves out
_STEP_BACK = 0.8  # of a batch that did not fit


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
    """Decodes copies of a layout, as many as fit, in one batch.

    Args:
        model: The model.
        layout: The prompt.
        new_tokens: Tokens per answer.
        kv_bytes: Bytes of keys and values per position.
        largest: Prompts at most.

    Raises:
        torch.OutOfMemoryError: If not even one prompt fits.
    """
    batch = min(largest, _estimate(model, layout.n_positions + new_tokens, kv_bytes))
    params = SamplingParams(max_tokens=new_tokens)
    while True:
        engine = TransformersEngine(model, batch_size=batch)
        try:
            return _run(engine, [layout] * batch, params, model.device)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch = max(int(batch * _STEP_BACK), 1)
        del engine
        free_memory(model.device)


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


def _estimate(model: RefragModel, positions: int, kv_bytes: int) -> int:
    """Prompts that should fit: their keys and values, and the states of one layer's prefill."""
    if model.device.type != "cuda":
        return 1
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(model.device)
    config = model.decoder.config.get_text_config()
    item = model.decoder.get_input_embeddings().weight.element_size()
    states = item * (4 * config.intermediate_size + 8 * config.hidden_size)
    return max(int(_SHARE * free / (positions * (kv_bytes + states))), 1)
