"""The curriculum is the paper's table 8."""

from __future__ import annotations

import pytest

from refrag_components.training.curriculum import FACTORS, STAGES, stage_mixture

# Examples per stage as printed in the paper; the single-chunk row's ratio is only near 1/3.
TABLE_8 = {
    2: [333, 298, 267, 238, 213, 191, 171, 153, 137],
    4: [83, 102, 126, 156, 193, 238, 293, 362, 447],
    8: [20, 35, 61, 106, 185, 324, 565, 985, 1719],
    16: [5, 11, 23, 48, 103, 220, 468, 997, 2125],
    32: [1, 3, 7, 19, 50, 133, 353, 939, 2496],
    256: [1, 3, 9, 25, 73, 212, 618, 1802, 5259],
}


@pytest.mark.parametrize("chunks", sorted(TABLE_8))
def test_rows_follow_the_paper(chunks: int) -> None:
    total, growth = FACTORS[chunks]
    for stage, printed in enumerate(TABLE_8[chunks]):
        count = total * (1 - growth) * growth**stage / (1 - growth**STAGES)
        assert count == pytest.approx(printed, rel=0.02, abs=1)


@pytest.mark.parametrize("max_chunks", [1, 8, 64, 256])
def test_shares_sum_to_one_and_shift_to_long_texts(max_chunks: int) -> None:
    mixtures = [stage_mixture(stage, max_chunks) for stage in range(STAGES)]
    for mixture in mixtures:
        assert sum(mixture.values()) == pytest.approx(1)
        assert max(mixture) == max_chunks
    longest = [mixture[max_chunks] for mixture in mixtures]
    assert longest == sorted(longest)
