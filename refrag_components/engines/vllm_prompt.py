"""Layouts as vLLM takes them: token ids with chunk embeddings between them, or embeddings alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.chunk_marks import mark
from refrag_components.engines.decoder_inputs import lay_out_rows
from refrag_components.engines.layout import Layout
from refrag_components.exceptions import InvalidVectorsError
from refrag_components.modeling.adapters import layers_at_chunks

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["VllmPrompt", "embedded_prompt", "mixed_prompt"]


@dataclass(frozen=True, eq=False)
class VllmPrompt:
    """A prompt of which vLLM embeds the tokens itself, or none.

    Attributes:
        token_ids: Token id at each position, shape (n,), int64. At a chunk embedding it is the
            prompt's first one: the repetition penalty, for which vLLM reads these ids, then sees
            the tokens of the prompt and no other.
        is_token: False at a chunk embedding, shape (n,), bool.
        embeddings: Chunk embeddings, zeros at tokens, shape (n, d_dec), on the CPU. Zeros because
            vLLM's prefix cache knows prompts by token ids (0 at an embedding) and these rows alone,
            not by ``is_token`` (vLLM issue 56655): so prompts that differ have different keys.
            Marked (``chunk_marks``) if the decoder has an adapter for chunk embeddings only.
    """

    token_ids: np.ndarray
    is_token: np.ndarray
    embeddings: Tensor

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prefix cache could take it for another prompt: an embedding of zeros."""
        rows = self.embeddings[torch.from_numpy(~self.is_token)]
        return bool((rows == 0).all(dim=1).any())


@torch.inference_mode()
def mixed_prompt(model: RefragModel, layout: Layout, dtype: torch.dtype) -> VllmPrompt:
    """Token ids, with chunk embeddings between them.

    Args:
        model: Makes chunk embeddings.
        layout: The prompt.
        dtype: The type of vLLM's weights.

    Raises:
        InvalidVectorsError: If an embedding is not finite, or of another width than the decoder's:
            the first spoils an answer, the second ends vLLM's process.
    """
    rows = lay_out_rows(model, [layout])
    (ids,), (index,) = rows.token_ids, rows.chunk_index
    is_token = index < 0
    width = model.decoder.get_input_embeddings().weight.shape[1]
    embeddings = torch.zeros(len(ids), width, dtype=dtype)
    if rows.chunks is not None and not is_token.all():
        embeddings[~is_token] = _checked(model, rows.chunks[index[~is_token]], dtype)
    return VllmPrompt(np.where(is_token, ids, ids[0]), is_token, embeddings)


@torch.inference_mode()
def embedded_prompt(model: RefragModel, layout: Layout, dtype: torch.dtype) -> Tensor:
    """The embeddings of tokens and chunks, shape (n, d_dec), on the CPU.

    Args:
        model: Makes token and chunk embeddings.
        layout: The prompt.
        dtype: What to send them in.

    Raises:
        InvalidVectorsError: As ``mixed_prompt``.
    """
    rows = lay_out_rows(model, [layout])
    (ids,), (index,) = rows.token_ids, rows.chunk_index
    is_token = index < 0
    embeddings = model.token_embeddings(ids).to("cpu", dtype)
    if rows.chunks is not None and not is_token.all():
        embeddings[~is_token] = _checked(model, rows.chunks[index[~is_token]], dtype)
    return embeddings


def _checked(model: RefragModel, embeddings: Tensor, dtype: torch.dtype) -> Tensor:
    """Chunk embeddings as they are sent."""
    width = model.decoder.get_input_embeddings().weight.shape[1]
    embeddings = embeddings.to("cpu", dtype)
    if embeddings.shape[1:] != (width,):
        msg = f"embeddings have shape {tuple(embeddings.shape)}; the decoder reads (n, {width})"
        raise InvalidVectorsError(msg)
    if not embeddings.isfinite().all():
        msg = (
            f"a chunk embedding holds NaN or infinite values in {dtype}; delete the stored chunk "
            "vectors of the passages and encode them again"
        )
        raise InvalidVectorsError(msg)
    return mark(embeddings) if layers_at_chunks(model.decoder) else embeddings
