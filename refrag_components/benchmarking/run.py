"""A whole measurement: case by case, each written before the next one begins."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from refrag_components.benchmarking.latency import LatencySettings, measure_case
from refrag_components.benchmarking.report import write_markdown
from refrag_components.benchmarking.results import Results
from refrag_components.benchmarking.roofline import Rates, measure_rates
from refrag_components.benchmarking.scenario import Case
from refrag_components.benchmarking.subject import Subject
from refrag_components.stores.common.opening import open_store

__all__ = ["measure_latency"]


def measure_latency(
    subject: Subject,
    chosen: Sequence[Case],
    folder: Path,
    *,
    settings: LatencySettings,
    description: dict[str, Any],
    store: str = "memory:",
    progress: Callable[[str], None] = lambda line: None,
    over: Callable[[], bool] = lambda: False,
) -> Results:
    """Measures cases that a folder does not have yet; ``latency.json`` and ``.md`` grow with each.

    Args:
        subject: What is measured.
        chosen: The cases, in order.
        folder: Where results are written.
        settings: What all rows share.
        description: More of what they share, to be recorded: model, device, dtype, ...
        store: URL of the store for passages that are cached.
        progress: Called with a line for each case.
        over: Asked before each case; no further one is measured once it says so.

    Returns:
        All results in the folder.

    Raises:
        EvaluationError: If the folder has results with other settings.
        UnknownModelError: If the model lacks a rate.
    """
    model = subject.at(0)
    device = model.device
    shared = description | asdict(settings) | {"store": store.partition(":")[0]} | _machine(device)
    results = Results.resume(folder, shared)
    dtype = model.dtype
    del model
    with open_store(store) as opened:
        for number, case in enumerate(chosen, start=1):
            if results.has(case):
                continue
            if over():
                break
            rates = _rates(results, device, dtype)
            row = measure_case(subject.at(case.k), case, settings, rates, opened)
            results.add(row)
            results.write(folder)
            write_markdown(results, folder)
            progress(f"{number}/{len(chosen)} {case.label}: {_outcome(row)}")
    return results


def _rates(results: Results, device: torch.device, dtype: torch.dtype) -> Rates:
    """The device's rates, measured once for a folder."""
    if "matrix_rate" not in results.settings:
        measured = measure_rates(device, dtype)
        results.settings |= {"matrix_rate": measured.matrix, "bandwidth": measured.bandwidth}
    return Rates(results.settings["matrix_rate"], results.settings["bandwidth"])


def _outcome(row: dict[str, Any]) -> str:
    if "failed" in row:
        return str(row["failed"])
    return f"first token after {1000 * row['first_token']['median']:.1f} ms"


def _machine(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
