"""The decoder of a checkpoint for vLLM: its files, and whether vLLM runs the same one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from refrag_components.exceptions import EngineError
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.weights.loading import quietly

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["check_likeliest", "export_decoder", "probe_ids", "refuse_chunk_adapter"]

_PROBE = "The harbour lies north of the old town and was dug in 1907"
_NATS = 0.5  # between two ways of computing the same in bfloat16 or from quantised weights


def export_decoder(model: RefragModel, folder: str | os.PathLike[str]) -> None:
    """Writes the decoder with its adapter merged, and its tokenizer, for ``vllm serve``.

    Args:
        model: Loaded by ``RefragModel.from_pretrained``; its ``dtype`` is that of the file.
        folder: Where to; made if it does not exist.

    Raises:
        EngineError: If vLLM could not run it.
    """
    refuse_chunk_adapter(model)
    with quietly():
        model.decoder.save_pretrained(Path(folder))
        model.tokenizer.save_pretrained(Path(folder))


def refuse_chunk_adapter(model: RefragModel) -> None:
    """Refuses a decoder that vLLM cannot run.

    Raises:
        EngineError: If an adapter works at chunk embeddings only.
    """
    if any(f".{CHUNK_ADAPTER}." in name for name, _ in model.decoder.named_parameters()):
        msg = (
            f"this checkpoint's decoder has an adapter at chunk embeddings only ({CHUNK_ADAPTER}), "
            'which vLLM cannot run; use engine="transformers", or a checkpoint without one'
        )
        raise EngineError(msg)


def probe_ids(model: RefragModel) -> np.ndarray:
    """Tokens of a sentence, shape (n,), int64, n at least 8."""
    ids = model.tokenizer(_PROBE, add_special_tokens=False).input_ids
    return np.asarray([model.first_token_id, *ids], np.int64)


@torch.inference_mode()
def check_likeliest(
    model: RefragModel, token_ids: np.ndarray, likeliest: tuple[int, float]
) -> None:
    """Compares what vLLM expects next with what the model's own decoder does.

    Embeddings pass between the two, so a decoder of other weights, and one that scales embeddings
    in another place, would answer nonsense without any error.

    Args:
        model: Provides the decoder.
        token_ids: What it reads, shape (n,), int64.
        likeliest: vLLM's likeliest token after them and its log-probability.

    Raises:
        EngineError: If the decoders differ.
    """
    ids = torch.from_numpy(token_ids).to(model.device).unsqueeze(0)
    scores = model.decoder(input_ids=ids).logits[0, -1].float().log_softmax(-1)
    token, there = likeliest
    here = float(scores[token]) if token < len(scores) else -torch.inf
    if not abs(here - there) < _NATS:  # NaN as well
        msg = (
            f"vLLM does not run this checkpoint's decoder: to token {token} it gives the "
            f"log-probability {there:.2f}, the checkpoint {here:.2f}; serve the folder that "
            'export_decoder(model, folder) writes, or use engine="transformers"'
        )
        raise EngineError(msg)
