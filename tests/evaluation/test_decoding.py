"""Evaluation reads and answers what the engine reads and answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refrag_components.engines import SamplingParams, TransformersEngine
from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.evaluation.decoding import decode
from refrag_components.evaluation.rows import Row
from refrag_components.modeling import RefragModel
from refrag_components.modeling.huggingface import end_token_ids
from tests.engines.layouts import segment, text_segment
from tests.tiny import TEXT


def row_of(layout: Layout, table: list[torch.Tensor], model: RefragModel) -> Row:
    """A layout's row; adds its chunk embeddings to the table."""
    ids, index = [], []
    for part in layout.segments:
        if part not in layout.passages:
            ids += list(part.token_ids)
            index += [-1] * len(part.token_ids)
            continue
        embeddings = model.chunk_embeddings([part.vectors])
        for chunk, expanded in enumerate(part.expanded):
            chunk_ids = part.vectors.chunk_token_ids(chunk) if expanded else [0]
            ids += list(chunk_ids)
            index += [-1 if expanded else len(table)] * len(chunk_ids)
            table += [] if expanded else [embeddings[chunk]]
    arrays = [np.array(values, np.int64) for values in (ids, index, [5], index)]
    return Row(*arrays)


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0, 0.0), (0.0, 0.5, 1.0, 0.3)])
def test_greedy_answers_are_the_engine_s(
    tiny_model: RefragModel, shares: tuple[float, ...]
) -> None:
    question = text_segment(tiny_model, "Where is the harbour?")
    backwards = TextSegment(question.token_ids[::-1])
    layouts = [
        Layout((question, segment(tiny_model, text, share), last))
        for text, share in zip(TEXT, shares, strict=False)
        for last in (question, backwards)
    ]
    with torch.inference_mode():
        table: list[torch.Tensor] = []
        rows = [row_of(layout, table, tiny_model) for layout in layouts]
        together = decode(tiny_model, torch.stack(table), rows, max_new_tokens=24)
        pairs = decode(tiny_model, torch.stack(table), rows[:2], max_new_tokens=24)  # not padded
    answers = TransformersEngine(tiny_model).generate(layouts, SamplingParams(max_tokens=24))
    ends = end_token_ids(tiny_model.decoder, tiny_model.tokenizer)
    wanted = [tuple(i for i in answer.token_ids if i not in ends) for answer in answers]
    assert [output.token_ids for output in together] == wanted
    assert [output.token_ids for output in pairs] == wanted[:2]
    assert len({*wanted}) > 1
