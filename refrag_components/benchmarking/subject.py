"""What is measured: a checkpoint, or random weights of a known shape, at each chunk size."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from refrag_components.benchmarking.random_model import random_decoder, random_model
from refrag_components.benchmarking.shapes import Shape
from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragModel

__all__ = ["CheckpointSubject", "ShapeSubject", "Subject"]


class Subject(Protocol):
    """A model that is measured at several rates."""

    def at(self, k: int) -> RefragModel:
        """The model whose layouts can have k tokens per chunk embedding; 0 for any model.

        Raises:
            UnknownModelError: If it has no such rate.
        """
        ...


class CheckpointSubject:
    """A checkpoint, loaded once if its rungs or its default chunk size are asked for.

    Args:
        name: Bundled name, checkpoint folder or Hugging Face hub id.
        device: Where it goes.
        dtype: Of the decoder.
        attention: How transformers computes attention, such as "sdpa".
    """

    def __init__(
        self, name: str, *, device: torch.device, dtype: torch.dtype, attention: str
    ) -> None:
        self._name, self._device, self._dtype = name, device, dtype
        self._attention = attention
        self._model: RefragModel | None = None

    def at(self, k: int) -> RefragModel:
        """The checkpoint; its chunk size is k if k is not one of its rungs."""
        if self._model is None:
            self._model = self._load(None)
        config = self._model.config
        if k and k not in config.rungs:
            if k > config.max_chunk_size or config.encoder_layers:
                rungs = ", ".join(map(str, config.rungs))
                msg = f"{self._name} has no chunk embeddings of {k} tokens, only of {rungs}"
                raise UnknownModelError(msg)
            self._model = None  # before the next one is loaded
            self._model = self._load(k)
        return self._model

    def _load(self, chunk_size: int | None) -> RefragModel:
        model = RefragModel.from_pretrained(
            self._name, device=self._device, dtype=self._dtype, chunk_size=chunk_size
        )
        model.decoder.set_attn_implementation(self._attention)
        return model


class ShapeSubject:
    """Random weights; the decoder is made once, encoder and projector for each chunk size.

    As in the paper, the k tokens of a chunk embedding are one chunk, with one stored vector. (A
    checkpoint with several rungs stores the vectors of the finest one and joins them.)

    Args:
        shape: Shape of the decoder.
        device: Where the weights are made.
        dtype: Of all weights.
        attention: How transformers computes attention, such as "sdpa".
    """

    def __init__(
        self, shape: Shape, *, device: torch.device, dtype: torch.dtype, attention: str
    ) -> None:
        self._shape, self._device, self._dtype = shape, device, dtype
        self._attention = attention
        self._decoder: Any = None
        self._model: RefragModel | None = None

    def at(self, k: int) -> RefragModel:
        """The decoder with an encoder and a projector for chunks of k tokens."""
        if self._decoder is None:
            self._decoder = random_decoder(self._shape, device=self._device, dtype=self._dtype)
            self._decoder.set_attn_implementation(self._attention)
        if self._model is None or (k and self._model.config.chunk_size != k):
            self._model = None  # before the next one is made
            self._model = random_model(self._decoder, self._shape, chunk_size=k or 8)
        return self._model
