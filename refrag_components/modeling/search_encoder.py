"""Passages and questions to search vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig

from refrag_components.forking import computing
from refrag_components.modeling.checkpoint_files import damage_named
from refrag_components.modeling.chunk_encoder import ChunkEncoder, batches, load_encoder
from refrag_components.text.tokenization import encodable
from refrag_components.weights.loading import load_tokenizer

__all__ = ["SearchEncoder"]

_TOKENISED_AT_ONCE = 2048  # texts; the tokens of many texts would take more memory than the texts


class SearchEncoder:
    """The base encoder as a sentence embedder: mean of the token states, length 1.

    It is separate from the chunk encoder, whose training would spoil search. The weights are
    loaded when they are first needed.

    Args:
        folder: Folder of the base encoder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _model(self) -> Any:
        with damage_named(self._folder):
            return load_encoder(self._folder)

    @cached_property
    def _tokenizer(self) -> Any:
        with damage_named(self._folder):
            return load_tokenizer(self._folder)

    @cached_property
    def width(self) -> int:
        """Width of a search vector, known without loading the weights."""
        with damage_named(self._folder):
            return int(
                AutoConfig.from_pretrained(self._folder, trust_remote_code=False).hidden_size
            )

    def for_chunks(self) -> ChunkEncoder:
        """The same encoder, with the same weights in memory, as one of chunks; loads them."""
        return ChunkEncoder(self._model, self._tokenizer).requires_grad_(False).eval()

    @property
    def _pad_id(self) -> int:
        return self._tokenizer.pad_token_id or 0

    @torch.inference_mode()
    def embed(
        self,
        texts: Sequence[str],
        *,
        device: torch.device | str,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Embeds texts; those longer than the encoder's window are truncated.

        Args:
            texts: Passages or questions.
            device: Device that computes them.
            batch_size: Texts per forward pass, at most; see ``batches``. None for 256 on a GPU and
                32 elsewhere.
            progress: Called with the number of texts embedded after each forward pass.

        Returns:
            Shape (n, width), float32, each row of length 1.
        """
        model = self._model.to(device)
        rows = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        size = batch_size or (256 if model.device.type == "cuda" else 32)
        # Similar lengths together from the start, so that little is padded.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _TOKENISED_AT_ONCE):
            group = order[start : start + _TOKENISED_AT_ONCE]
            tokens = self._tokens([texts[i] for i in group])
            for picked in batches([len(ids) for ids in tokens], size, model.device):
                with computing():
                    vectors = self._forward(model, [torch.tensor(tokens[i]) for i in picked])
                rows[[group[i] for i in picked]] = vectors
                if progress is not None:
                    progress(len(picked))
        return rows

    def _forward(self, model: Any, inputs: list[Tensor]) -> np.ndarray:
        mask = pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True)
        ids = pad_sequence(inputs, batch_first=True, padding_value=self._pad_id)
        mask = mask.to(model.device)
        states = model(input_ids=ids.to(model.device), attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        vectors: np.ndarray = nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return vectors

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        read = self._tokenizer([encodable(text) for text in texts], truncation=True).input_ids
        return [ids or [self._pad_id] for ids in read]  # not every tokenizer has special tokens
