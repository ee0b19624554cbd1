"""Passages and questions to search vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoTokenizer

from refrag_components.modeling.chunk_encoder import batches, load_encoder
from refrag_components.text.tokenization import encodable

__all__ = ["PassageEncoder"]


class PassageEncoder:
    """The base encoder as a sentence embedder: mean of the token states, length 1.

    It is kept apart from the chunk encoder, whose training would spoil search. The weights are
    loaded when they are first needed.

    Args:
        folder: Folder of the base encoder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _model(self) -> Any:
        return load_encoder(self._folder)

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self._folder)

    @cached_property
    def width(self) -> int:
        """Width of a search vector; known without loading the weights."""
        return int(AutoConfig.from_pretrained(self._folder).hidden_size)

    @property
    def _pad_id(self) -> int:
        return self._tokenizer.pad_token_id or 0

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], *, device: torch.device | str, batch_size: int = 32
    ) -> np.ndarray:
        """Embeds texts; what exceeds the encoder's window is not seen.

        Args:
            texts: Passages or questions.
            device: Where to compute.
            batch_size: Texts a forward pass, at most; see ``batches``.

        Returns:
            Shape (n, width), float32, each row of length 1.
        """
        model = self._model.to(device)
        rows = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        tokens = self._tokens(texts)
        for picked in batches([len(ids) for ids in tokens], batch_size, model.device):
            inputs = [torch.tensor(tokens[i]) for i in picked]
            mask = pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True)
            ids = pad_sequence(inputs, batch_first=True, padding_value=self._pad_id)
            mask = mask.to(device)
            states = model(input_ids=ids.to(device), attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1)
            mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
            rows[picked] = nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return rows

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        read = self._tokenizer([encodable(text) for text in texts], truncation=True).input_ids
        return [ids or [self._pad_id] for ids in read]  # not every tokenizer has special tokens
