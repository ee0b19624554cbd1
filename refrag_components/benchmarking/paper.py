"""What the REFRAG paper measured: facts to compare with."""

from __future__ import annotations

from refrag_components.benchmarking.scenario import CONTEXTS

__all__ = ["PAPER", "SOURCE"]

SOURCE = (
    "REFRAG, arXiv 2509.01092, figures 2, 8 and 9 (values read from their vector graphics): "
    "LLaMA-2-7B, one A100, bfloat16, batch 1, acceleration over LLaMA"
)

_NOT_CACHED = "not cached"  # one series for all k in the paper

#: Acceleration over the full text: quantity, then series ("k=8", ... or "not cached"), then tokens
#: of context.
PAPER: dict[str, dict[str, dict[int, float]]] = {
    quantity: {name: dict(zip(CONTEXTS, values, strict=True)) for name, values in series.items()}
    for quantity, series in {
        "first_token": {
            "k=8": (1.16, 2.08, 3.91, 6.49, 7.39, 9.21, 11.79, 15.51),
            "k=16": (1.14, 2.16, 3.74, 7.58, 13.80, 16.53, 22.85, 32.99),
            "k=32": (1.13, 2.12, 3.87, 7.24, 16.12, 30.85, 41.02, 63.92),
            _NOT_CACHED: (0.75, 1.36, 2.39, 4.22, 6.76, 8.59, 11.67, 16.71),
        },
        "token": {
            "k=8": (1.13, 1.05, 1.05, 0.97, 0.96, 1.03, 1.68, 3.25),
            "k=16": (1.12, 1.07, 1.04, 1.08, 0.91, 1.02, 1.74, 3.05),
            "k=32": (1.12, 1.06, 1.05, 1.08, 1.02, 0.96, 1.72, 3.17),
        },
        "throughput": {
            "k=8": (1.13, 1.08, 1.10, 1.08, 1.22, 1.61, 2.94, 6.24),
            "k=16": (1.12, 1.09, 1.10, 1.21, 1.18, 1.64, 3.24, 6.78),
            "k=32": (1.12, 1.08, 1.11, 1.21, 1.32, 1.58, 3.30, 7.47),
            _NOT_CACHED: (1.10, 1.05, 1.03, 1.10, 1.22, 1.62, 3.05, 6.06),
        },
    }.items()
}
