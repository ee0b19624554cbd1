"""The decoder of a checkpoint for vLLM: its files, and whether vLLM runs the same one."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from refrag_components.engines.vllm_plugin import ARCHITECTURE
from refrag_components.exceptions import EngineError
from refrag_components.modeling.adapters import CHUNK_ADAPTER, layers_at_chunks
from refrag_components.weights.loading import quietly

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["check_likeliest", "export_decoder", "probe_ids", "refuse_decoder"]

_PROBE = "The harbour lies north of the old town and was dug in 1907"
_NATS = 0.5  # between two ways of computing the same in bfloat16 or from quantised weights


def export_decoder(model: RefragModel, folder: str | os.PathLike[str]) -> None:
    """Writes the decoder with its adapter merged, and its tokenizer, for ``vllm serve``.

    An adapter at chunk embeddings only is written next to the weights; vLLM can run it where this
    library is installed as well.

    Args:
        model: Loaded by ``RefragModel.from_pretrained``; its ``dtype`` is that of the file.
        folder: Where to; made if it does not exist.

    Raises:
        EngineError: If vLLM could not run it.
    """
    refuse_decoder(model)
    target = Path(folder)
    adapted = layers_at_chunks(model.decoder)
    with quietly():
        model.tokenizer.save_pretrained(target)
        if not adapted:
            model.decoder.save_pretrained(target)
            return
        config = copy.deepcopy(model.decoder.config)
        config.architectures = [ARCHITECTURE]
        config.dtype = model.dtype
        config.save_pretrained(target)
        model.decoder.generation_config.save_pretrained(target)
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.decoder.state_dict().items()
        if ".lora_" not in name and not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    for name, layer in adapted.items():
        scale = layer.scaling[CHUNK_ADAPTER]
        weights[f"{name}.lora_A.weight"] = layer.lora_A[CHUNK_ADAPTER].weight.detach()
        weights[f"{name}.lora_B.weight"] = layer.lora_B[CHUNK_ADAPTER].weight.detach() * scale
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in weights.items()},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )


def refuse_decoder(model: RefragModel) -> None:
    """Refuses a decoder that vLLM cannot run.

    Raises:
        EngineError: If an adapter works at chunk embeddings only, in another decoder than a Llama.
    """
    kind = model.decoder.config.model_type
    if kind != "llama" and layers_at_chunks(model.decoder):
        msg = (
            f"this checkpoint's decoder, a {kind}, has an adapter at chunk embeddings only "
            f"({CHUNK_ADAPTER}), which vLLM can run in a llama alone; use "
            'engine="transformers", or a checkpoint without one'
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
