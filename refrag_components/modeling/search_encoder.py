"""Passages and questions to search vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig

from refrag_components.cached import cached_property
from refrag_components.forking import OwnLock, computing
from refrag_components.modeling.checkpoint_files import damage_named
from refrag_components.modeling.chunk_encoder import ChunkEncoder, batches, load_encoder
from refrag_components.text.tokenization import encodable
from refrag_components.weights.loading import load_tokenizer

__all__ = ["SearchEncoder"]

_TOKENISED_AT_ONCE = 2048  # texts; the tokens of many texts would take more memory than the texts

_loading = OwnLock()  # transformers changes states of the process while it loads


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
        with _loading, damage_named(self._folder):
            return load_encoder(self._folder)

    @cached_property
    def _tokenizer(self) -> Any:
        with _loading, damage_named(self._folder):
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
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        for picked, ids, states in self._states(texts, device, batch_size):
            with computing():
                rows[picked] = _means(ids, states)
            if progress is not None:
                progress(len(picked))
        return rows

    @torch.inference_mode()
    def embed_tokens(
        self, texts: Sequence[str], *, device: torch.device | str, batch_size: int | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Embeds texts and each of their tokens, for late interaction.

        Args:
            texts: Passages or questions.
            device: Device that computes them.
            batch_size: As for ``embed``.

        Returns:
            What ``embed`` returns; and of each text the states of its tokens, shape (tokens,
            width), float32, each of length 1. Special tokens, such as those at both ends, are left
            out, unless there are no others.
        """
        rows = np.zeros((len(texts), self.width), dtype=np.float32)
        tokens: dict[int, np.ndarray] = {}
        # An unknown word is a word.
        ends = {*self._tokenizer.all_special_ids} - {self._tokenizer.unk_token_id}
        special = torch.tensor(sorted(ends), dtype=torch.int64)
        for picked, ids, states in self._states(texts, device, batch_size):
            with computing():
                rows[picked] = _means(ids, states)
                units = nn.functional.normalize(states, dim=-1).cpu()
            for i, of_text, unit in zip(picked, ids, units, strict=True):
                words = ~torch.isin(of_text, special)
                tokens[i] = unit[: len(of_text)][words if words.any() else ...].numpy()
        return rows, [tokens[i] for i in range(len(texts))]

    def _states(
        self, texts: Sequence[str], device: torch.device | str, batch_size: int | None
    ) -> Iterator[tuple[list[int], list[Tensor], Tensor]]:
        """Yields the places of some texts, their token ids, and the states of these, padded."""
        model = self._model.to(device)
        size = batch_size or (256 if model.device.type == "cuda" else 32)
        # Similar lengths together from the start, so that little is padded.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _TOKENISED_AT_ONCE):
            group = order[start : start + _TOKENISED_AT_ONCE]
            tokens = self._tokens([texts[i] for i in group])
            for picked in batches([len(ids) for ids in tokens], size, model.device):
                ids = [torch.tensor(tokens[i]) for i in picked]
                with computing():
                    states = self._forward(model, ids)
                yield [group[i] for i in picked], ids, states

    def _forward(self, model: Any, inputs: list[Tensor]) -> Tensor:
        ids = pad_sequence(inputs, batch_first=True, padding_value=self._pad_id)
        states: Tensor = model(
            input_ids=ids.to(model.device), attention_mask=_mask(inputs).to(model.device)
        ).last_hidden_state
        return states

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        read = self._tokenizer([encodable(text) for text in texts], truncation=True).input_ids
        return [ids or [self._pad_id] for ids in read]  # not every tokenizer has special tokens


def _mask(inputs: list[Tensor]) -> Tensor:
    return pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True)


def _means(inputs: list[Tensor], states: Tensor) -> np.ndarray:
    """The mean of each text's states, scaled to length 1."""
    weights = _mask(inputs).to(states.device).unsqueeze(-1)
    mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    vectors: np.ndarray = nn.functional.normalize(mean, dim=-1).cpu().numpy()
    return vectors
