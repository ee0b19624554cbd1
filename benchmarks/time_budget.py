"""How well a time as the budget holds.

    python benchmarks/time_budget.py --model CHECKPOINT

Calibrates, then asks with passages of common words and budgets of several times, and prints how
often the first token came in time, and how much of the time was used.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from refrag_components.benchmarking.calibration import calibrate
from refrag_components.benchmarking.scenario import make_passages
from refrag_components.benchmarking.words import QUESTION
from refrag_components.engines import SamplingParams
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.policies import Milliseconds
from refrag_components.prompts.parts import Part, PassagePart, TextPart


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a bundled name, a folder or a hub id")
    parser.add_argument("--context", type=int, default=4096, help="tokens of all passages")
    parser.add_argument("--passage-tokens", type=int, default=256)
    parser.add_argument("--policy", default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="threads of PyTorch, on a CPU")
    parser.add_argument(
        "--milliseconds", type=float, nargs="+", help="by default for 1/8 to 3/4 of the context"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = RefragModel.from_pretrained(options.model)
    costs = calibrate(model, progress=print)
    generator = RefragGenerator(model, policy=options.policy, costs=costs)
    passages = make_passages(model.tokenizer, options.context, options.passage_tokens)
    parts: list[Part] = [
        TextPart("Read:\n"),
        *map(PassagePart, passages),
        TextPart(f"\n{QUESTION}\n"),
    ]
    wanted = options.milliseconds or [
        1000 * costs.first_token(options.context // part) for part in (8, 4, 2)
    ]
    params = SamplingParams(max_tokens=1)
    generator.generate([Request(parts, QUESTION)], params)  # every passage is stored from here on
    lines = []
    for milliseconds in wanted:
        request = Request(parts, QUESTION, budget=Milliseconds(milliseconds))
        reports = [
            generator.generate([request], params)[0].report for _ in range(3 + options.repeats)
        ][3:]
        took = sorted(1000 * (report.time_to_first_token or 0.0) for report in reports)
        positions = statistics.median(report.positions for report in reports)
        in_time = sum(each <= milliseconds for each in took) / len(took)
        p95 = took[min(int(0.95 * len(took)), len(took) - 1)]
        lines.append(
            [
                f"{milliseconds:.1f}",
                f"{positions:.0f}",
                f"{statistics.median(took):.1f}",
                f"{p95:.1f}",
                f"{took[-1]:.1f}",
                f"{in_time:.0%}",
            ]
        )
    head = ["budget, ms", "positions", "median", "p95", "slowest", "in time"]
    print("\n".join(markdown_table(head, lines)))


if __name__ == "__main__":
    main()
