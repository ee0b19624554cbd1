"""Passages and questions to search vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer

from refrag_components.encoder import load_encoder
from refrag_components.tokenization import encodable

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

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], *, device: torch.device, batch_size: int = 32
    ) -> np.ndarray:
        """Embeds texts; what exceeds the encoder's window is not seen.

        Args:
            texts: Passages or questions.
            device: Where to compute.
            batch_size: Texts a forward pass.

        Returns:
            Shape (n, d_enc), float32, each row of length 1.
        """
        model = self._model.to(device)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            picked = order[start : start + batch_size]
            inputs = self._tokenizer(
                [encodable(texts[i]) for i in picked],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(device)
            states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            rows[picked] = nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return rows
