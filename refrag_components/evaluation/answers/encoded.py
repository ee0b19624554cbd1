"""Chunk vectors of a measurement's passages, each encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["EncodedPassages"]

_ENCODED_AT_ONCE = 512  # passages


class EncodedPassages:
    """Encodes passages when they are first needed and stores their chunk vectors in memory.

    All sets, numbers of passages, methods and budgets share them.

    Args:
        model: The model, in evaluation mode.

    Attributes:
        model: The same.
        store: The chunk vectors.
    """

    def __init__(self, model: RefragModel) -> None:
        self.model = model
        self.store = MemoryStore(max_bytes=None)
        self._keys: dict[str, str] = {}

    def add(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> None:
        """Encodes the passages that are not stored yet.

        Args:
            texts: Passages.
            progress: Called with the number of passages done after each batch, including those that
                were stored already.
        """
        distinct = list(dict.fromkeys(texts))
        missing = [text for text in distinct if text not in self._keys]
        if progress is not None:
            progress(len(distinct) - len(missing))
        # Similar lengths together, so that little is padded.
        missing.sort(key=len)
        batch_size = 256 if self.model.device.type == "cuda" else 16
        for start in range(0, len(missing), _ENCODED_AT_ONCE):
            batch = missing[start : start + _ENCODED_AT_ONCE]
            keys = [passage_key(text, self.model.fingerprint) for text in batch]
            encoded = self.model.encode_passages(batch, batch_size=batch_size)
            self.store.mset(zip(keys, encoded, strict=True))
            self._keys.update(zip(batch, keys, strict=True))
            if progress is not None:
                progress(len(batch))

    @torch.inference_mode()
    def table(self, texts: Sequence[str]) -> tuple[Tensor, dict[int, dict[str, int]]]:
        """Projects the chunks of passages, on every rung of the checkpoint.

        Args:
            texts: Distinct passages; those that are not stored yet are encoded.

        Returns:
            Chunk embeddings of all passages, shape (rows, d_dec), on the model's device; and for
            each rung the row of each passage's first one.
        """
        self.add(texts)
        vectors = self.store.mget([self._keys[text] for text in texts])
        found = [passage for passage in vectors if passage is not None]  # the store forgets nothing
        tables: list[Tensor] = []
        first_rows: dict[int, dict[str, int]] = {}
        row = 0
        rungs = self.model.config.rungs
        for rung in rungs:
            tables += [
                self.model.chunk_embeddings(found[start : start + _ENCODED_AT_ONCE], rung)
                for start in range(0, len(found), _ENCODED_AT_ONCE)
            ]
            first_row = first_rows[rung] = {}
            for text, passage in zip(texts, found, strict=True):
                first_row[text] = row
                row += -(-passage.n_chunks * rungs[0] // rung)
        return torch.cat(tables), first_rows
