"""Ten thousand requests of two tenants while everything goes wrong around them.

    python benchmarks/soak.py [--requests 10000]

64 callers, half of them threads and half of them tasks, ask a tiny random model through LangChain
and LlamaIndex in ten rounds. Some are cancelled or go away; one tenant's store raises, hangs and
lies in some rounds and comes back in others; a child is forked in the middle of each round. The
layout of each answer is compared with the one that the same question gets alone. Ends with status 1
if anything was wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from tests.integrations.soak import CALLERS, PATIENCE, ROUNDS, Soak
from tests.tiny import random_model, tiny_decoder_config

LONGEST_PAUSE = 330.0  # seconds; for so long a store may be left alone that had failed often


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork next to threads
    faulthandler.dump_traceback_later(ROUNDS * PATIENCE, exit=True)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder) / "checkpoint")
        soak = Soak(checkpoint, Path(folder), arguments.requests, arguments.seed)
        started = time.perf_counter()
        figures = soak.run()
        seconds = time.perf_counter() - started
        waited = sorted(figures.waited)
        late = waited[int(0.99 * len(waited))]
        rate = figures.answered / seconds
        print(
            f"{arguments.requests} requests of {CALLERS} callers in {seconds:.0f} s: "
            f"{figures.answered} answered ({rate:.1f} per second), {figures.cancelled} cancelled\n"
            f"waited: median {statistics.median(waited):.2f} s, p99 {late:.2f} s, "
            f"max {waited[-1]:.2f} s\n"
            f"wrong layouts: {len(figures.wrong_layouts)}, "
            f"wrong answers: {len(figures.wrong_answers)}, failures: {len(figures.failures)}\n"
            f"exit statuses of forked children: {figures.children}"
        )
        wrong = [*figures.wrong_layouts, *figures.wrong_answers, *figures.failures]
        print("\n".join(wrong[:20]))
        came_back, strangers = soak.comes_back(LONGEST_PAUSE), soak.strangers()
        print(f"the sick store is read again: {came_back}; strangers' passages: {len(strangers)}")
        print(
            f"after each round: memory {figures.memory} MiB, in use "
            f"{[round(used) for used in figures.allocated]} MiB, objects {figures.objects}, "
            f"open files {figures.open_files}, threads {figures.threads}"
        )
        soak.close()
    sys.exit(bool(wrong or any(figures.children) or strangers or not came_back))


def save_checkpoint(folder: Path) -> str:
    """Saves a random decoder of one layer with a random encoder; returns the folder."""
    config = tiny_decoder_config(num_hidden_layers=1, max_position_embeddings=8192)
    random_model(folder, config).save_pretrained(folder / "saved")
    return str(folder / "saved")


if __name__ == "__main__":
    main()
