"""Chunks to chunk vectors, with a copy of the decoder's first layers."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.chunk_encoder import encode_windows
from refrag_components.modeling.fused_layers import fused_layers
from refrag_components.modeling.fused_norms import fused_norms
from refrag_components.modeling.huggingface import embedding_scale, forward_arguments
from refrag_components.text.chunking import ChunkedPassage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LayerEncoder"]

_EPS = 1e-5
_TOKEN_WEIGHT = 0.5  # of a chunk's tokens before the last one, in an untrained mix
_STATE_WEIGHT = 0.2  # of all states, likewise


class LayerEncoder(nn.Module):
    """The decoder's first layers, which read a passage and yield one vector per chunk.

    A passage is read in one causal pass over the decoder's token embeddings, so a chunk vector
    depends on the text before the chunk. The vector of a chunk of k tokens is

        c = rms_norm(sum_j place_j h_j + sum_j mix_j e_j / s),  j over the tokens of the chunk,

    with h the states after the last layer and its norm, e the token embeddings as the layers
    receive them and s their standard deviation; missing tokens of a short last chunk count as zero.
    The second sum carries the tokens themselves, so a projector needs nothing but the vector.

    The layers start as a copy, their final norm as new: the decoder's final norm belongs to its
    last layer. States have no weight until ``randomise``. The table of token embeddings remains the
    decoder's, is not trained and is not part of this module's state.

    Args:
        decoder: Decoder whose layers and token embeddings are used.
        layers: Number of layers.
        chunk_size: Tokens per chunk (k).
        window: Longest input of the decoder in positions.

    Raises:
        UnknownModelError: If no encoder can be made from the decoder's layers.
    """

    def __init__(
        self, decoder: PreTrainedModel, *, layers: int, chunk_size: int, window: int
    ) -> None:
        super().__init__()
        embedding: Any = decoder.get_input_embeddings()
        self._embedding = (embedding,)  # in a tuple it is not part of this module
        self.scale = embedding_scale(decoder)
        self.model: Any = _first_layers(decoder, layers)
        self.chunk_size = chunk_size
        self.window = window
        width = embedding.weight.shape[1]
        self.place = nn.Parameter(torch.zeros(chunk_size, width, width))
        self.mix = nn.Parameter(torch.eye(width).repeat(chunk_size, 1, 1))
        with torch.no_grad():
            self.mix[:-1] *= _TOKEN_WEIGHT / 2**0.5

    @torch.no_grad()
    def randomise(self) -> None:
        """Adds the random part of an untrained encoder, once, before its training.

        At each position within the chunk the state, and except at the last position the token, is
        multiplied by a random rotation, which tells the positions apart.
        """
        for matrix in self.place:
            matrix += _STATE_WEIGHT * nn.init.orthogonal_(torch.empty_like(matrix))
        for matrix in self.mix[:-1]:
            matrix += _TOKEN_WEIGHT / 2**0.5 * nn.init.orthogonal_(torch.empty_like(matrix))

    @property
    def width(self) -> int:
        """Width of a chunk vector (d_enc): the width of the decoder."""
        return int(self.place.shape[-1])

    @property
    def table(self) -> Tensor:
        """The decoder's token embeddings, shape (vocabulary, d_enc)."""
        table: Tensor = self._embedding[0].weight
        return table

    @property
    def room(self) -> int:
        """Tokens of a passage that one pass reads; whole chunks."""
        return self.window // self.chunk_size * self.chunk_size

    def forward(self, token_ids: Tensor, used: Tensor, chunk_size: int | None = None) -> Tensor:
        """Encodes passages, or windows of them.

        Args:
            token_ids: Decoder token ids, padded on the right with any token to a multiple of the
                chunk size, shape (passages, tokens).
            used: True for tokens, False for padding, same shape.
            chunk_size: Tokens per chunk, from 1 to k; None for k. Smaller chunks use the matrices
                of the first positions only.

        Returns:
            Chunk vectors, shape (passages, tokens / chunk size, d_enc); zero for chunks that are
            padding only, as a rung's projector expects them.
        """
        k = chunk_size or self.chunk_size
        dtype = self.place.dtype
        mask = used.unsqueeze(-1)
        tokens = self._embedding[0](token_ids).to(dtype) * mask
        states = self.model(inputs_embeds=tokens, use_cache=False).last_hidden_state * mask
        summed = _by_chunk(states, k) @ self.place[:k].flatten(0, 1)
        summed = summed + _by_chunk(tokens / self.scale, k) @ self.mix[:k].flatten(0, 1)
        return nn.functional.rms_norm(summed, (self.width,), eps=_EPS)

    def windows(self, passage: ChunkedPassage) -> list[np.ndarray]:
        """Cuts a passage's tokens into windows, at chunk boundaries only; shape (tokens,) each."""
        k = passage.chunk_size
        if k > self.chunk_size:
            msg = f"this encoder takes chunks of at most {self.chunk_size} tokens, got {k}"
            raise ValueError(msg)
        room = self.room // k * k
        ids = passage.token_ids
        return [ids[start : start + room] for start in range(0, len(ids), room)]

    @torch.inference_mode()
    def encode(
        self,
        passages: Sequence[ChunkedPassage],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Encodes passages of one chunk size of at most k, see ``ChunkEncoder.encode``."""
        if not passages:
            return []
        (chunk_size,) = {passage.chunk_size for passage in passages}
        return encode_windows(
            [self.windows(passage) for passage in passages],
            len,
            lambda windows: self._encode_batch(windows, chunk_size),
            width=self.width,
            batch_size=batch_size,
            device=self.place.device,
            progress=progress,
        )

    def _encode_batch(self, windows: Sequence[np.ndarray], k: int) -> list[np.ndarray]:
        counts = [-(-len(window) // k) for window in windows]
        ids = np.zeros((len(windows), max(counts) * k), dtype=np.int64)
        used = np.zeros(ids.shape, dtype=bool)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
            used[row, : len(window)] = True
        device = self.place.device
        given = (torch.from_numpy(array).to(device) for array in (ids, used))
        with self._fewer_kernels(device):
            vectors = self(*given, k)
        rows = vectors.float().cpu().numpy()
        return [chunks[:count] for chunks, count in zip(rows, counts, strict=True)]

    @contextmanager
    def _fewer_kernels(self, device: torch.device) -> Iterator[None]:
        """A question is read in less time than its kernels are launched in; a CPU launches none."""
        # Other attention may need to be told more than fused layers say, such as a sliding window.
        if device.type != "cuda" or self.model.config._attn_implementation != "sdpa":
            yield
            return
        with fused_norms(self.model), fused_layers(self.model):
            yield


def _by_chunk(rows: Tensor, k: int) -> Tensor:
    """(passages, tokens, d) to (passages, chunks, k d)."""
    return rows.unflatten(1, (-1, k)).flatten(2)


def _first_layers(decoder: PreTrainedModel, layers: int) -> Any:
    """A base model with the decoder's first layers in float32, without token embeddings."""
    name = type(decoder).__name__
    fix = "choose another decoder, or encoder_layers=0 with a Hugging Face encoder"
    decoder_config: Any = decoder.config.get_text_config()
    if layers > decoder_config.num_hidden_layers:
        depth = decoder_config.num_hidden_layers
        msg = f"{name} has {depth} layers; encoder_layers={layers} is more than that"
        raise UnknownModelError(msg)
    config: Any = copy.deepcopy(decoder_config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        with suppress(AttributeError):  # where they follow from the number of layers (Mamba, Jamba)
            config.layer_types = config.layer_types[:layers]
    # The table comes from the decoder; one row here costs no memory.
    config.vocab_size, config.pad_token_id = 1, None
    try:
        model: Any = AutoModel.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        msg = f"{name} cannot be built with {layers} layers ({error}); {fix}"
        raise UnknownModelError(msg) from error
    if "inputs_embeds" not in forward_arguments(model):
        raise UnknownModelError(f"{type(model).__name__} takes no inputs_embeds; {fix}")
    model.set_input_embeddings(None)
    given = dict(decoder.base_model.named_parameters())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key not in given or given[key].shape != parameter.shape:
                msg = f"{name} has no {key} of shape {tuple(parameter.shape)}; {fix}"
                raise UnknownModelError(msg)
            in_a_layer = re.search(r"\.\d+\.", f".{key}")
            if parameter.ndim > 1 or in_a_layer:  # not the norm after the last layer
                parameter.copy_(given[key])
    return model.eval()
