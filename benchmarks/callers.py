"""What callers of one model do to each other.

    python benchmarks/callers.py [--model CHECKPOINT]

Measures answers per second, and processor time per answer (which other work on the machine does not
change), of 64 callers and of one call with 64 prompts, in turns, because other work comes and goes:
the share is the median of the rounds. And how long an answer of two tokens takes alone and next to
callers with long answers. Without a checkpoint a random decoder answers, which says as much about
waiting.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget
from refrag_components.prompts.parts import Part, PassagePart, TextPart
from tests import tiny
from tests.tiny import TEXT, tiny_decoder_config

ANSWER, SHORT, LONG = (SamplingParams(max_tokens=count) for count in (16, 2, 150))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a bundled name, a folder or a hub id")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name = arguments.model
    generator = RefragGenerator(RefragModel.from_pretrained(name) if name else random_model())

    def answer(i: int, params: SamplingParams, passages: int = 4) -> float:
        started = time.perf_counter()
        generator.generate([request(i, passages)], params)
        return time.perf_counter() - started

    for i in range(len(TEXT)):
        answer(i, ANSWER)  # every passage is stored from here on
    count, seconds = arguments.callers, arguments.seconds

    def at_once() -> float:
        started = time.perf_counter()
        generator.generate([request(i) for i in range(count)], ANSWER)
        return count / (time.perf_counter() - started)

    at_once()
    shares, rates, waited = [], [], []
    used = {"one call": 0.0, "callers": 0.0}
    for _ in range(arguments.rounds):
        started = time.process_time()
        together = at_once()
        used["one call"] += time.process_time() - started
        started = time.process_time()
        many, took = callers(count, seconds / arguments.rounds, lambda i: answer(i, ANSWER))
        used["callers"] += time.process_time() - started
        started = time.process_time()
        together = (together + at_once()) / 2
        used["one call"] += time.process_time() - started
        rates.append(together)
        shares.append(len(many) / took / together)
        waited += many
    alone = used["one call"] / (2 * count * arguments.rounds)
    each = used["callers"] / len(waited)
    print(
        f"one call with {count} prompts: {statistics.median(rates):.1f} answers per second, "
        f"{1000 * alone:.1f} ms of processor time each"
    )
    print(
        f"{count} callers: {statistics.median(shares):.0%} of its answers per second "
        f"({min(shares):.0%} to {max(shares):.0%}), {1000 * each:.1f} ms of processor time each "
        f"({alone / each:.0%}); {times(waited)}"
    )
    print(f"short answers alone: {times([answer(i, SHORT) for i in range(20)])}")
    over = threading.Event()

    def ask_long(i: int) -> None:
        while not over.is_set():
            answer(i, LONG, passages=8)

    with ThreadPoolExecutor(4) as pool:
        for i in range(4):
            pool.submit(ask_long, i)
        next_to_long, _ = callers(1, seconds, lambda i: answer(i, SHORT))
        over.set()
        print(f"next to 4 long ones: {times(next_to_long)}")


def callers(count: int, seconds: float, ask: Callable[[int], float]) -> tuple[list[float], float]:
    """Callers that ask again and again: seconds of each answer, and until the last one."""
    started = time.perf_counter()
    end = started + seconds

    def work(i: int) -> list[float]:
        waited = []
        while time.perf_counter() < end:
            waited.append(ask(i))
        return waited

    with ThreadPoolExecutor(count) as pool:
        waited = [one for each in pool.map(work, range(count)) for one in each]
    return waited, time.perf_counter() - started


def times(waited: list[float]) -> str:
    """Median, 95th percentile and maximum."""
    ranked = sorted(waited)
    late = ranked[int(0.95 * len(ranked))]
    return f"median {statistics.median(ranked):.2f} s, p95 {late:.2f} s, max {ranked[-1]:.2f} s"


def request(i: int, passages: int = 4) -> Request:
    """A prompt with everything compressed."""
    context = [PassagePart(TEXT[(i + j) % len(TEXT)]) for j in range(passages)]
    parts: list[Part] = [TextPart("Read:\n"), *context, TextPart(f"\nQuestion {i}?")]
    return Request(
        parts, f"Question {i}?", policy="none", budget=FractionBudget(0.0), rest="compress"
    )


def random_model() -> RefragModel:
    """A random decoder of eight layers."""
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_decoder_config(
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=8,
            max_position_embeddings=4096,
            initializer_range=0.05,
        )
        return tiny.random_model(Path(folder), config, chunk_size=8)


if __name__ == "__main__":
    main()
