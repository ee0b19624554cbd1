"""Layouts of a tiny model, and its decoder's logits for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, Segment, TextSegment
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
    with model.chunk_mask.using(inputs.chunk_mask):
        return model.decoder(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            position_ids=inputs.position_ids,
        ).logits


def token_ids(model: RefragModel, text: str) -> np.ndarray:
    return np.asarray(model.tokenizer(text).input_ids)


def prompt(
    model: RefragModel, texts: list[str], expanded: Callable[[int], np.ndarray] | bool, end: str
) -> Layout:
    """Text before, between and after passages."""
    segments: list[Segment] = [TextSegment(token_ids(model, "Read this: "))]
    for vectors in model.encode_passages(texts):
        n = vectors.n_chunks
        mask = np.full(n, expanded) if isinstance(expanded, bool) else expanded(n)
        segments += [PassageSegment(vectors, mask), TextSegment(token_ids(model, "\n"))]
    return Layout((*segments, TextSegment(token_ids(model, end))))


def every_other(n: int) -> np.ndarray:
    return np.arange(n) % 2 == 1


def plain_ids(layout: Layout) -> list[int]:
    """The token ids of a layout in which everything is expanded."""
    return [
        int(i)
        for segment in layout.segments
        for i in (
            segment.token_ids if isinstance(segment, TextSegment) else segment.vectors.token_ids
        )
    ]
