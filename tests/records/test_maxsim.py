from __future__ import annotations

import numpy as np
import pytest

from refrag_components.records.maxsim import maxsim, pack_tokens, unpack_tokens
from refrag_components.vectors import unit_rows


def rows(seed: int, n: int, width: int = 12) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((n, width)))


def test_scores_are_means_of_best_cosines() -> None:
    question, passages = rows(0, 3), [rows(1, 1), rows(2, 5), rows(3, 2)]
    expected = [np.mean([max(q @ t for t in tokens) for q in question]) for tokens in passages]
    np.testing.assert_allclose(maxsim(question, passages), expected, atol=1e-6)
    assert maxsim(question, []).shape == (0,)


def test_tokens_survive_in_half_precision() -> None:
    tokens = rows(1, 5).astype(np.float16).astype(np.float32)
    packed = pack_tokens(tokens, quantised=False)
    assert len(packed) == 5 * 12 * 2
    np.testing.assert_array_equal(unpack_tokens(packed, 12, quantised=False), tokens)


@pytest.mark.parametrize("width", [8, 12])
def test_bits_are_signs(width: int) -> None:
    tokens = rows(1, 5, width)
    packed = pack_tokens(tokens, quantised=True)
    assert len(packed) == 5 * -(-width // 8)
    read = unpack_tokens(packed, width, quantised=True)
    np.testing.assert_array_equal(read > 0, tokens > 0)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("quantised", [False, True])
def test_bytes_that_are_no_vectors_are_refused(quantised: bool) -> None:
    with pytest.raises(ValueError, match=r"reshape|buffer size"):
        unpack_tokens(b"x" * 7, 12, quantised=quantised)
    with pytest.raises(ValueError, match="there are none"):
        unpack_tokens("", 12, quantised=quantised)
    with pytest.raises(ValueError, match="base64"):
        unpack_tokens("no base64!", 12, quantised=quantised)
