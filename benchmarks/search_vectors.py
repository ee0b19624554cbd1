"""Search vectors that are kept from one measurement to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from refrag_components.modeling.search_encoder import SearchEncoder
from refrag_components.weights.lookup import base_folder

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class SearchVectors:
    """What the bundled model searches with.

    Args:
        file: Keeps the vectors, by text; None keeps none.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._encoder = SearchEncoder(base_folder(ENCODER))
        self._known: dict[bytes, np.ndarray] = {}
        if file is not None and file.exists():
            with np.load(file) as kept:
                self._known = dict(zip(map(bytes, kept["keys"]), kept["vectors"], strict=True))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Shape (texts, d), float32, each row of length 1."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._known
        }
        if missing:
            vectors = self._encoder.embed(list(missing.values()), device=_DEVICE)
            self._known.update(zip(missing, vectors, strict=True))
            if self._file is not None:
                held = np.array([list(key) for key in self._known], dtype=np.uint8)
                np.savez(self._file, keys=held, vectors=np.stack(list(self._known.values())))
        return np.stack([self._known[key] for key in keys])
