"""A random choice: the baseline that every other policy has to beat."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np

from refrag_components.policies.base import Policy, PolicyInputs

__all__ = ["RandomPolicy"]


class RandomPolicy(Policy):
    """Scores chunks at random: the same request and seed always give the same choice.

    Args:
        seed: Non-negative; another seed gives another choice.
    """

    name: ClassVar[str] = "random"
    expands_first: ClassVar[str] = "any, the same ones each time"
    reads_question: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        """Uniform in [0, 1), seeded by the request, so that answers do not depend on order."""
        request = zlib.crc32(inputs.question.text.encode(errors="surrogatepass"))
        for passage in inputs.passages:
            request = zlib.crc32(passage.token_ids.tobytes(), request)
        generator = np.random.default_rng([self.seed, request])
        return generator.random(inputs.n_chunks, dtype=np.float32)
