"""Layouts of a tiny model, and what its decoder makes of them."""

from __future__ import annotations

import numpy as np
import torch

from refrag_components.engines.decoder_batch import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.modeling import RefragModel


def segment(model: RefragModel, text: str, expand: float | np.ndarray) -> PassageSegment:
    (vectors,) = model.encode_passages([text])
    if isinstance(expand, float):
        expand = np.arange(vectors.n_chunks) < round(expand * vectors.n_chunks)
    return PassageSegment(vectors, expand)


def text_segment(model: RefragModel, text: str) -> TextSegment:
    return TextSegment(np.array(model.tokenizer(text).input_ids))


@torch.inference_mode()
def logits(model: RefragModel, layouts: list[Layout]) -> torch.Tensor:
    inputs = embed_layouts(model, layouts)
    with model.places.at(inputs.chunk_places):
        return model.decoder(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
        ).logits
