"""Measures the tables of docs/performance.md in one go, what matters most first.

    python benchmarks/speed.py OUT --shape llama-2-7b [--seconds 240] [--only NAME...]
    python benchmarks/speed.py OUT --shape tiny --context 64 128 --device cpu

Parts: "nothing" (text, and nothing expanded), "throughput" (the largest batch), "expanded",
"encoded" (passages that are not cached), "dropped", and "kernels" (of a short and of a long prompt
with nothing expanded: profiles of it and of some steps, and what a first token waits for). A run
that is stopped, or whose time is over, continues with the same command: rows that are there are
skipped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.timeline import timeline
from refrag_components.benchmarking.latency import LatencySettings
from refrag_components.benchmarking.run import measure_latency
from refrag_components.benchmarking.scenario import Case, make_passages, prompt
from refrag_components.benchmarking.shapes import SHAPES, Shape
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.benchmarking.timing import free_memory, synchronise
from refrag_components.benchmarking.words import QUESTION
from refrag_components.engines import static_cache
from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout
from refrag_components.engines.static_caches import StaticCaches
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel, layer_encoder
from refrag_components.policies import FractionBudget

TINY = Shape(64, 128, 2, 4, 2, 512, 1)
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768)
RATES = (32, 16)
FRACTIONS = (0.05, 0.1)
BATCH_TOKENS = 128
PROFILED = (2048, 16_384)
_STEPS = 8  # that are profiled


@dataclass(frozen=True)
class Part:
    """Rows that go into one folder.

    Attributes:
        folder: Its name.
        cases: What is measured.
        settings: What its rows share.
    """

    folder: str
    cases: list[Case]
    settings: LatencySettings


def parts(contexts: list[int], repeats: int) -> dict[str, Part]:
    """The parts of the tables, in order; each chunk size is made as few times as possible."""
    latency = LatencySettings(repeats=repeats)
    batch = LatencySettings(repeats=1, new_tokens=0, batch_tokens=BATCH_TOKENS)
    some = [c for c in contexts if c in (512, 16_384)] or [contexts[0], contexts[-1]]
    full = [16_384] if 16_384 in contexts else [contexts[-1]]
    text = [Case(c, "text") for c in contexts]
    nothing = [Case(c, "compress", k) for k in RATES for c in contexts]
    last = RATES[::-1]  # the chunk size that is there comes first
    return {
        "nothing": Part("latency", text + nothing, latency),
        "throughput": Part(
            "throughput",
            [case for c in full for case in (Case(c, "compress", 16), Case(c, "text"))],
            batch,
        ),
        "expanded": Part(
            "latency",
            [Case(c, "compress", k, p) for k in last for c in contexts for p in FRACTIONS],
            latency,
        ),
        "encoded": Part(
            "latency",
            [Case(c, "compress", k, cached=False) for k in RATES for c in some],
            latency,
        ),
        "dropped": Part(
            "latency",
            [Case(c, "drop", k, p) for k in last for c in contexts for p in FRACTIONS],
            latency,
        ),
    }


def main() -> None:
    """Measures what is missing in the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="llama-2-7b", choices=[*SHAPES, "tiny"])
    parser.add_argument("--context", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--only", nargs="+", help="names of parts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=240.0, help="no row begins after that")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--own-layers",
        action="store_true",
        help="the decoder's own layers within graphs, to compare",
    )
    parser.add_argument(
        "--cudnn",
        action="store_true",
        help="cuDNN's attention, which the library turns off: faster for long prompts whose length "
        "comes again, much slower for others",
    )
    options = parser.parse_args()
    started = time.monotonic()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("refrag_components").setLevel(logging.INFO)  # why there are no graphs
    if options.own_layers:
        static_cache.fused_layers = layer_encoder.fused_layers = unchanged
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    shape = TINY if options.shape == "tiny" else SHAPES[options.shape]
    subject = ShapeSubject(shape, device=device, dtype=dtype, attention="sdpa")
    if options.cudnn:
        subject.at(0)  # which turns it off
        torch.backends.cuda.enable_cudnn_sdp(True)
    description = {
        "model": f"{options.shape}, random weights",
        "dtype": options.dtype,
        "attention": "sdpa with cuDNN" if options.cudnn else "sdpa",
        "layers": "the decoder's own" if options.own_layers else "fused in graphs",
    }

    def passed() -> float:
        return time.monotonic() - started

    def over() -> bool:
        return passed() > options.seconds

    def say(line: str) -> None:
        print(f"{passed():5.0f} s  {line}", flush=True)

    wanted = options.only or [*parts(options.context, options.repeats), "kernels"]
    for name, part in parts(options.context, options.repeats).items():
        if name in wanted:
            measure_latency(
                subject,
                part.cases,
                options.out / part.folder,
                settings=part.settings,
                description=description,
                progress=say,
                over=over,
            )
    if "kernels" in wanted and not over():
        # Outside of inference mode, in which weights would be made that no product can join.
        model = subject.at(RATES[0])
        chosen = [c for c in options.context if c in PROFILED] or options.context[-1:]
        text = "\n\n".join(
            f"{context} tokens\n\n{kernels(model, StaticCaches.for_model(model), context)}"
            for context in chosen
        )
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "kernels.txt"
        path.write_text(f"{text}\n", encoding="utf-8")
        say(f"wrote {path}")
    say("time is over; the same command continues" if over() else "done")


@contextmanager
def unchanged(decoder: Any) -> Iterator[None]:
    """Leaves a decoder's layers as they are."""
    yield


def kernels(model: RefragModel, caches: StaticCaches | None, context: int) -> str:
    """What a prompt and its steps spend their time in, and what the first token waits for."""
    free_memory(model.device)
    generator = RefragGenerator(model, budget=FractionBudget(0.0), rest="compress")
    passages = make_passages(model.tokenizer, context, 256)
    request = Request(prompt(passages, "compress"), QUESTION)
    layout = generator.prepare(request).layout
    generator.flush()
    tables = profile(model, caches, layout)
    tables["from a request to the first token"] = timeline(generator, request)
    return "\n\n".join(
        f"{layout.n_positions} positions, {what}:\n{table}" for what, table in tables.items()
    )


@torch.inference_mode()
def profile(model: RefragModel, caches: StaticCaches | None, layout: Layout) -> dict[str, str]:
    """Tables of the kernels of a prompt and of steps, as they are once they are recorded."""
    inputs = embed_layouts(model, [layout])
    token = torch.ones(1, dtype=torch.int64, device=model.device)
    for _ in range(3):  # until both are recorded
        batch = DecoderBatch(model, inputs, caches)
        for _ in range(_STEPS):
            batch.step(token)
        batch.close()
    way = "recorded" if caches is not None and caches.reason is None else "not recorded"
    found = {}
    for what in ("a prompt", f"{_STEPS} steps"):
        synchronise(model.device)
        with torch.profiler.profile() as seen:
            if what == "a prompt":
                batch = DecoderBatch(model, inputs, caches)
            else:
                for _ in range(_STEPS):
                    batch.step(token)
            synchronise(model.device)
        found[f"{what}, {way}"] = seen.key_averages().table(
            sort_by=f"self_{'device' if model.device.type == 'cuda' else 'cpu'}_time_total",
            row_limit=40,
            max_name_column_width=90,
        )
    batch.close()
    return found


if __name__ == "__main__":
    main()
