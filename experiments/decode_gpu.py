"""What a token takes with and without graphs, and whether it is the same token.

    python experiments/decode_gpu.py --shape llama-2-7b --positions 128 558 1070 4142

Random weights; needs CUDA (`--device cpu` tries the script out, without graphs).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from contextlib import nullcontext

import numpy as np
import torch

from refrag_components.benchmarking.random_model import random_decoder, random_model
from refrag_components.benchmarking.roofline import Rates, Work, measure_rates
from refrag_components.benchmarking.shapes import shape_named
from refrag_components.benchmarking.timing import synchronise
from refrag_components.engines import SamplingParams, TransformersEngine, static_cache
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.modeling import RefragModel
from refrag_components.modeling.fused_layers import fused_layers
from refrag_components.modeling.fused_norms import fused_norms

_OWN, _OWN_LAYERS = "graphs, the decoder's own layers and norms", "graphs, the decoder's own layers"


def caches_of(model: RefragModel) -> StaticCaches:
    """Static caches, with graphs where there is a GPU."""
    if model.device.type == "cuda":
        return StaticCaches(model)
    return StaticCaches(model, record=lambda work: work)


def prompt(positions: int, seed: int) -> Layout:
    """A prompt of random tokens."""
    ids = np.random.default_rng(seed).integers(1, 90, positions)
    return Layout((TextSegment(ids),))


def times(
    model: RefragModel,
    caches: StaticCaches | None,
    layouts: list[Layout],
    options: argparse.Namespace,
) -> tuple[float, float]:
    """Medians of seconds to the first token, and per further token of each row."""
    engine = TransformersEngine(model, batch_size=max(len(layouts), 1))
    engine._worker._caches = caches
    params = SamplingParams(max_tokens=1 + options.tokens)
    first, further = [], []
    for turn in range(3 + options.repeats):  # the second recording of a prompt happens in the third
        synchronise(model.device)
        started = time.perf_counter()
        outputs = engine.generate(layouts, params)
        took = time.perf_counter() - started
        begun = max(output.time_to_first_token for output in outputs)
        if turn >= 3:
            first.append(begun)
            further.append((took - begun) / options.tokens)
    return statistics.median(first), statistics.median(further)


@torch.inference_mode()
def agreement(model: RefragModel, caches: StaticCaches, layout: Layout, count: int) -> str:
    """Both ways read the same tokens, those that the plain way chooses; are they alike?"""
    plain = DecoderBatch(model, embed_layouts(model, [layout]))
    other = DecoderBatch(model, embed_layouts(model, [layout]), caches)
    equal, apart, margin = 0, 0.0, 0.0
    for _ in range(count):
        expected, found = plain.logits.float(), other.logits.float()
        apart = max(apart, float((found - expected).norm() / expected.norm()))
        token = expected.argmax(dim=-1)
        if bool((found.argmax(dim=-1) == token).all()):
            equal += 1
        else:
            best = expected.topk(2).values[0]
            margin = max(margin, float((best[0] - best[1]) / expected.std()))
        plain.step(token)
        other.step(token)
    other.close()
    flips = "" if equal == count else f" (margins there up to {margin:.1e} standard deviations)"
    return f"same token {equal}/{count}{flips}, logits apart at most {apart:.1e}"


def main() -> None:
    """Prints a line for each length, way and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=["llama-2-7b", "smollm2-135m"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--positions", type=int, nargs="+", default=[128, 558, 1070, 4142, 16_430])
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true", help="also the kernels of four steps")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("refrag_components").setLevel(logging.INFO)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    rates = measure_rates(device, dtype)
    print(f"{rates.matrix / 1e12:.3g} Tflop/s, {rates.bandwidth / 1e9:.4g} GB/s", flush=True)
    for name in options.shape:
        shape = shape_named(name)
        decoder = random_decoder(shape, device=device, dtype=dtype)
        decoder.set_attn_implementation("sdpa")
        model = random_model(decoder, shape, chunk_size=16)
        for positions in options.positions:
            for rows in options.rows:
                measure(
                    model,
                    f"{name}, {positions} positions x {rows}",
                    positions,
                    rows,
                    rates,
                    options,
                )
        if options.profile:
            profile(model, options.positions[0])


def measure(
    model: RefragModel,
    label: str,
    positions: int,
    rows: int,
    rates: Rates,
    options: argparse.Namespace,
) -> None:
    """Both ways, one after the other."""
    layouts = [prompt(positions, seed) for seed in range(rows)]
    work = Work(model)
    floor = work.token(rates, positions * rows)
    begin_floor = work.first_token(rates, positions) * rows
    for way in ("plain", _OWN, _OWN_LAYERS, "graphs"):
        caches = None if way == "plain" else caches_of(model)
        static_cache.fused_norms = nullcontext if way == _OWN else fused_norms
        static_cache.fused_layers = fused_layers if way == "graphs" else nullcontext
        first, further = times(model, caches, layouts, options)
        print(
            f"{label}, {way}: first token {1000 * first:.2f} ms (floor {1000 * begin_floor:.2f}), "
            f"then {1000 * further:.3f} ms per token (floor {1000 * floor:.3f}, "
            f"{further / floor:.2f}x)"
            + (f", not lent: {caches.reason}" if caches is not None and caches.reason else ""),
            flush=True,
        )
        if caches is not None:
            print(f"  {agreement(model, caches, layouts[0], options.tokens)}", flush=True)


@torch.inference_mode()
def profile(model: RefragModel, positions: int) -> None:
    """The kernels of four steps in a static cache."""
    batch = DecoderBatch(model, embed_layouts(model, [prompt(positions, 0)]), caches_of(model))
    token = torch.ones(1, dtype=torch.int64, device=model.device)
    for _ in range(4):
        batch.step(token)
    synchronise(model.device)
    with torch.profiler.profile() as found:
        for _ in range(4):
            batch.step(token)
        synchronise(model.device)
    table = found.key_averages().table(
        sort_by="self_device_time_total", row_limit=24, max_name_column_width=70
    )
    print(table, flush=True)


if __name__ == "__main__":
    main()
