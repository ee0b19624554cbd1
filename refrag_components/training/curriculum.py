"""The nine-stage reconstruction curriculum (paper, table 8)."""

from __future__ import annotations

import numpy as np

__all__ = ["FACTORS", "STAGES", "stage_mixture"]

STAGES = 9

#: Chunks to reconstruct -> (examples over all stages, growth from one stage to the next).
FACTORS: dict[int, tuple[int, float]] = {
    1: (2000, 1 / 3),
    2: (2000, 0.895),
    4: (2000, 1.234),
    8: (4000, 1.745),
    16: (4000, 2.13),
    32: (4000, 2.66),
    64: (8000, 2.918),
    128: (8000, 2.918),
    256: (8000, 2.918),
}


def stage_mixture(stage: int, max_chunks: int) -> dict[int, float]:
    """How often each number of chunks is reconstructed in a stage.

    Each row of table 8 is a geometric sequence n_i = N (1 - r) r^(i-1) / (1 - r^9).

    Args:
        stage: 0..8.
        max_chunks: Largest number of chunks to use, at least 1.

    Returns:
        Number of chunks to share of the stage's examples; the shares sum to 1.
    """
    counts = {
        chunks: total * (1 - growth) * growth**stage / (1 - growth**STAGES)
        for chunks, (total, growth) in FACTORS.items()
        if chunks <= max_chunks
    }
    whole = float(np.sum(list(counts.values())))
    return {chunks: count / whole for chunks, count in counts.items()}
