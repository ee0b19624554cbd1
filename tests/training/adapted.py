"""A tiny model whose adapters change what it computes, and text windows for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from refrag_components.corpus import Batch, TokenisedCorpus, WindowSpec, cut_windows
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.training.adapters import attach_adapters
from refrag_components.training.recipe import LoraSettings, Recipe


def adapted_model(decoder: Path, encoder: Path) -> RefragModel:
    """A model of these bases with adapters; their B, zero before training, is drawn."""
    config = RefragConfig(decoder=str(decoder), encoder=str(encoder), chunk_size=4)
    refrag = RefragModel.from_base(config)
    attach_adapters(refrag, LoraSettings(decoder_rank=4, encoder_rank=4))
    torch.manual_seed(2)
    torch.nn.init.normal_(refrag.projector.out.weight, std=0.2)  # zero before training
    for name, parameter in refrag.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return refrag


def untrained_model(recipe: Recipe) -> RefragModel:
    """What the first stage of a run starts from."""
    set_seed(recipe.seed)
    return RefragModel.from_base(recipe.model)


def window_batch(
    model: RefragModel,
    run_folder: Path,
    *,
    everywhere: bool,
    expanded: float = 0.3,
    chunk_size: int = 4,
) -> Batch:
    """Five windows of two passages of the run's text, the last chunk of each shorter."""
    spec = WindowSpec(
        chunk_size=chunk_size, passages=2, passage_tokens=14, output_tokens=6, expanded=expanded
    )
    return cut_windows(
        TokenisedCorpus.load(run_folder / "text"),
        np.arange(5) * 7,
        spec,
        encoder=model.encoder,
        separator=model.first_token_id,
        rng=np.random.default_rng(0),
        with_full_text=True,
        with_context_labels=everywhere,
    )
