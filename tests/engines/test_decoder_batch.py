"""Exactness at p=1 and layouts anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refrag_components.engines.decoder_batch import DecoderBatch
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.modeling import RefragModel
from tests.engines.layouts import logits, segment, text_segment
from tests.tiny import TEXT
from tests.waits import waits


def test_all_expanded_equals_the_plain_decoder_bit_for_bit(tiny_model: RefragModel) -> None:
    question = text_segment(tiny_model, "Where is the harbour?")
    passages = [segment(tiny_model, text, 1.0) for text in TEXT]
    layout = Layout((question, passages[0], *passages[1:], question))
    ids = np.concatenate(
        [question.token_ids, *(p.vectors.token_ids for p in passages), question.token_ids]
    )
    with torch.inference_mode():
        plain = tiny_model.decoder(input_ids=torch.from_numpy(ids)[None]).logits
    assert torch.equal(logits(tiny_model, [layout]), plain)


def test_left_padding_changes_nothing(tiny_model: RefragModel) -> None:
    question = text_segment(tiny_model, "Where is the harbour?")
    layouts = [
        Layout((question, segment(tiny_model, TEXT[0], 0.0))),
        Layout((question, *(segment(tiny_model, text, 0.5) for text in TEXT), question)),
    ]
    batch = logits(tiny_model, layouts)
    for i, layout in enumerate(layouts):
        alone = logits(tiny_model, [layout])[0]
        torch.testing.assert_close(batch[i, -layout.n_positions :], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("position", ["before", "between", "after"])
def test_chunk_embeddings_are_where_the_passage_is(tiny_model: RefragModel, position: str) -> None:
    first = TextSegment(np.array([tiny_model.first_token_id]))
    text = text_segment(tiny_model, "Where is the harbour?")
    passage = segment(tiny_model, TEXT[0], 0.0)
    order = {
        "before": (first, passage, text),
        "between": (text, passage, text),
        "after": (text, passage),
    }[position]
    layout = Layout(order)
    rows = embed_layouts(tiny_model, [layout]).inputs_embeds[0]
    chunks = tiny_model.chunk_embeddings([passage.vectors])
    start = order[0].n_positions
    assert layout.n_positions == len(rows) == sum(s.n_positions for s in order)
    torch.testing.assert_close(rows[start : start + len(chunks)], chunks)


def test_expanded_chunks_are_exactly_their_tokens(tiny_model: RefragModel) -> None:
    passage = segment(tiny_model, TEXT[0], 0.0)
    choice = np.zeros(passage.vectors.n_chunks, dtype=bool)
    choice[[1, -1]] = True
    passage = PassageSegment(passage.vectors, choice)
    first = TextSegment(np.array([tiny_model.first_token_id]))
    rows = embed_layouts(tiny_model, [Layout((first, passage))]).inputs_embeds[0]
    ids, k = passage.vectors.token_ids, passage.vectors.chunk_size
    assert len(rows) == 1 + passage.n_positions
    torch.testing.assert_close(rows[2 : 2 + k], tiny_model.token_embeddings(ids[k : 2 * k]))
    tail = ids[(len(choice) - 1) * k :]
    torch.testing.assert_close(rows[-len(tail) :], tiny_model.token_embeddings(tail))


def test_each_passage_is_read_on_its_own_rung(layered_model: RefragModel) -> None:
    first = TextSegment(np.array([layered_model.first_token_id]))
    vectors = layered_model.encode_passages(TEXT[:4])
    rungs = (16, 4, 0, 8)
    segments = [
        PassageSegment(own, np.zeros(own.n_chunks, bool), rung)
        for own, rung in zip(vectors, rungs, strict=True)
    ]
    tokens = np.arange(vectors[3].n_chunks) < 2  # the first group of the last passage
    segments[3] = PassageSegment(vectors[3], tokens, 8)
    layouts = [Layout((first, *segments)), Layout((first, segments[1], first, segments[0]))]
    rows = embed_layouts(layered_model, layouts).inputs_embeds
    tables = {
        rung: layered_model.chunk_embeddings([own], rung)
        for own, rung in zip(vectors, rungs, strict=True)
        if rung
    }
    text = layered_model.token_embeddings(vectors[3].token_ids[:8])
    expected = torch.cat([tables[16], tables[4], text, tables[8][1:]])
    torch.testing.assert_close(rows[0, -len(expected) :], expected)
    assert layouts[0].n_positions == 1 + len(expected)
    torch.testing.assert_close(rows[1, -len(tables[16]) :], tables[16])


@pytest.mark.parametrize("expand", [0.0, 0.5])
def test_nothing_waits_for_the_device_from_the_vectors_to_the_logits(
    layered_model: RefragModel, expand: float
) -> None:
    layout = Layout(
        (
            text_segment(layered_model, "Where is the harbour?"),
            *(segment(layered_model, text, expand) for text in TEXT),
        )
    )

    def read() -> None:
        DecoderBatch(layered_model, embed_layouts(layered_model, [layout]))

    with torch.inference_mode():
        assert waits(read) == []


@pytest.mark.parametrize("expand", [0.0, 1.0])
def test_scores_after_more_tokens_are_those_of_steps(
    tiny_model: RefragModel, expand: float
) -> None:
    """With padding, and (with one row) without; the batch stays as it was."""
    question = text_segment(tiny_model, "Where is the harbour?")
    layouts = [Layout((question, segment(tiny_model, text, expand))) for text in TEXT[:3]]
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 5, 8]])
    for rows in (torch.tensor([2, 0]), torch.tensor([0])):
        batched = layouts if len(rows) > 1 else layouts[:1]
        with torch.inference_mode():
            batch = DecoderBatch(tiny_model, embed_layouts(tiny_model, batched))
        before = batch.logits.clone()
        scores = batch.after(rows, tokens[rows])
        torch.testing.assert_close(batch.logits, before, atol=0, rtol=0)
        batch.keep(rows)
        torch.testing.assert_close(batch.logits, before[rows], atol=0, rtol=0)
        for i in range(tokens.shape[1]):
            batch.step(tokens[rows, i])
            torch.testing.assert_close(batch.logits, scores[:, i], atol=2e-5, rtol=1e-4)


def test_rows_that_join_and_leave_are_decoded_as_alone(tiny_model: RefragModel) -> None:
    question = text_segment(tiny_model, "Where is the harbour?")
    short = Layout((question, segment(tiny_model, TEXT[0], 0.0)))
    long = Layout((question, *(segment(tiny_model, text, 1.0) for text in TEXT), question))
    tokens = torch.tensor([20, 21, 22])

    def start(layout: Layout) -> DecoderBatch:
        return DecoderBatch(tiny_model, embed_layouts(tiny_model, [layout]))

    alone = [start(layout) for layout in (short, long)]
    joined, joining = start(short), start(long)
    for batch in (alone[0], joined):
        batch.step(tokens[:1])
    joined.join(joining)
    for token in tokens:
        expected = torch.cat([batch.logits for batch in alone])
        torch.testing.assert_close(joined.logits, expected, atol=2e-5, rtol=1e-4)
        joined.step(token.expand(2))
        for batch in alone:
            batch.step(token[None])
    joined.keep(torch.tensor([0]))
    assert joined.length > alone[0].length
    joined.trim()
    assert joined.length == alone[0].length
    joined.step(tokens[:1])
    alone[0].step(tokens[:1])
    torch.testing.assert_close(joined.logits, alone[0].logits, atol=2e-5, rtol=1e-4)
