"""Windows of running text, as they are trained on and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import Batch, TokenisedCorpus, WindowSpec, batch_logits, cut_windows
from refrag_components.corpus.windows import RECALL_CUE, RECALL_SPAN
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT

RUNGS = (4, 8, 16)


def cut(
    corpus: TokenisedCorpus,
    starts: list[int],
    spec: WindowSpec,
    rung: int = 4,
    *,
    rungs: tuple[int, ...] = RUNGS,
    seed: int = 0,
    chosen: np.ndarray | None = None,
) -> Batch:
    return cut_windows(
        corpus,
        np.array(starts),
        spec,
        chunk_size=4,
        rungs=rungs,
        row_rungs=[rung] * len(starts),
        separator=0,
        rng=np.random.default_rng(seed),
        chosen=chosen,
    )


@pytest.mark.parametrize("kind", ["compressed", "runs", "text"])
def test_a_window_of_one_document_equals_its_layout(
    either_model: RefragModel, corpus: TokenisedCorpus, kind: str
) -> None:
    """Same text, same chunks: the batch and the query-time layout give the same logits."""
    ends = np.flatnonzero(corpus.tokens == either_model.first_token_id)
    start, size, o = int(ends[0]) + 1, int(ends[1] - ends[0]) - 1, 2
    (vectors,) = either_model.encode_passages([TEXT[1]])
    choice = np.zeros(vectors.n_chunks, dtype=bool)
    if kind != "compressed":
        choice[2:5] = True
    if kind == "text":
        choice[:] = True
    spec = WindowSpec(
        passages=1, passage_tokens=size, output_tokens=o, expanded=float(kind == "text")
    )
    chosen = choice.repeat(vectors.chunk_lengths)[None] if kind == "runs" else None
    batch = cut(corpus, [start], spec, rungs=either_model.config.rungs, chosen=chosen)
    tail = np.asarray(corpus.tokens[start + size : start + size + o - 1], dtype=np.int64)
    first = TextSegment(np.array([either_model.first_token_id]))
    layout = Layout((first, PassageSegment(vectors, choice), TextSegment(tail)))
    with torch.inference_mode():
        mine = batch_logits(either_model, batch)
        inputs = embed_layouts(either_model, [layout])
        with either_model.chunk_mask.using(inputs.chunk_mask):
            theirs = either_model.decoder(inputs_embeds=inputs.inputs_embeds).logits[0, -o:]
    torch.testing.assert_close(mine, theirs, atol=1e-2, rtol=1e-3)  # stored vectors are float16


@settings(max_examples=60)
@given(
    passages=st.integers(1, 3),
    tokens=st.integers(32, 60),
    expanded=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    rung=st.sampled_from(RUNGS),
    seed=st.integers(0, 99),
)
def test_all_windows_of_a_batch_have_the_same_number_of_positions(
    corpus: TokenisedCorpus, passages: int, tokens: int, expanded: float, rung: int, seed: int
) -> None:
    spec = WindowSpec(
        passages=passages, passage_tokens=tokens, output_tokens=8, expanded=expanded, run=16
    )
    batch = cut(corpus, [0, 7, 30], spec, rung, seed=seed)
    runs = {0.0: 0, 1.0: 0}.get(expanded, max(round(expanded * passages * tokens / 16), 1))
    runs = min(runs, passages * (tokens // 16))
    chunks = passages * -(-tokens // rung) - runs * (16 // rung)
    in_text = runs * 16
    if expanded == 1:
        chunks, in_text = 0, passages * tokens
    assert ((batch.chunk_index >= 0).sum(dim=1) == chunks).all()
    assert batch.labels.shape == (24,)
    last = batch.label_index.view(3, 8) % batch.token_ids.shape[1]
    assert (last == torch.arange(8) + chunks + in_text).all()
    for row, start in enumerate([0, 7, 30]):
        after = start + passages * tokens
        assert batch.labels.view(3, 8)[row].tolist() == corpus.tokens[after : after + 8].tolist()


def test_spans_are_recalled_from_anywhere_in_the_context(corpus: TokenisedCorpus) -> None:
    spec = WindowSpec(passages=2, passage_tokens=48, output_tokens=6, recalled=3, expanded=1.0)
    batch = cut(corpus, [3, 40], spec)
    firsts = set()
    labels = batch.labels.view(2, -1)
    assert labels.shape[1] == 6 + 3 * RECALL_SPAN
    for row, start in enumerate([3, 40]):
        context = corpus.tokens[start : start + 96].tolist()
        tail = batch.token_ids[row, 1 + 96 :].tolist()
        for span in range(3):
            begin = 6 + span * (1 + RECALL_CUE + RECALL_SPAN)
            assert tail[begin] == 0  # the separator that asks for it
            cue = tail[begin + 1 : begin + 1 + RECALL_CUE]
            counted = labels[row, 6 + span * RECALL_SPAN :][:RECALL_SPAN].tolist()
            whole = [*cue, *counted]
            places = [i for i in range(33) if context[i : i + len(whole)] == whole]
            assert places
            firsts.update(places)
    assert len(firsts) > 2


def test_spans_are_the_same_whatever_the_decoder_reads(corpus: TokenisedCorpus) -> None:
    spec = {"passages": 2, "passage_tokens": 48, "output_tokens": 6, "recalled": 2}
    labels = [
        cut(corpus, [3, 40], WindowSpec(**spec, **how)).labels.tolist()  # type: ignore[arg-type]
        for how in ({}, {"expanded": 1.0}, {"expanded": 0.4, "run": 16}, {"shown": False})
    ]
    assert labels[0] == labels[1] == labels[2] == labels[3]
    hidden = cut(corpus, [3], WindowSpec(**spec, shown=False))  # type: ignore[arg-type]
    assert hidden.groups == ()
    assert hidden.token_ids[0, 0] == 0
    assert hidden.token_ids[0, 1:6].tolist() == corpus.tokens[99:104].tolist()
    with pytest.raises(ValueError, match="a span to recall takes 64 tokens"):
        WindowSpec(passages=1, passage_tokens=63, output_tokens=6, recalled=1)


def test_passages_can_be_shuffled(corpus: TokenisedCorpus) -> None:
    """Each row has an order of its own; what its passages say and what follows stays."""
    spec = {"passages": 4, "passage_tokens": 10, "output_tokens": 3, "expanded": 1.0}
    starts = [3, 20, 40, 60]
    mixed = cut(corpus, starts, WindowSpec(**spec, shuffled=1.0))  # type: ignore[arg-type]
    straight = cut(corpus, starts, WindowSpec(**spec))  # type: ignore[arg-type]
    orders = set()
    for own, other in zip(mixed.token_ids, straight.token_ids, strict=True):
        passages = other[1:41].view(4, 10).tolist()
        order = [passages.index(part) for part in own[1:41].view(4, 10).tolist()]
        assert sorted(order) == [0, 1, 2, 3]
        orders.add(tuple(order))
        assert torch.equal(own[41:], other[41:])
    assert len(orders) > 1


def test_what_does_not_expand_can_be_dropped(corpus: TokenisedCorpus) -> None:
    spec = WindowSpec(passages=2, passage_tokens=20, output_tokens=4)
    last = np.arange(40)[None] >= 25
    batch = cut(corpus, [5], spec, 0, chosen=last)
    assert batch.groups == ()
    assert batch.token_ids[0, 1:16].tolist() == corpus.tokens[30:45].tolist()
    assert batch.labels.tolist() == corpus.tokens[45:49].tolist()


def test_the_teacher_reads_the_output_but_recalls_nothing(corpus: TokenisedCorpus) -> None:
    shape = {"passages": 2, "passage_tokens": 48, "output_tokens": 8, "recalled": 1}
    for expanded, compared in ((0.0, 8), (0.3, 8 + 2 * 16), (1.0, 8 + 96 // 4)):
        spec = WindowSpec(**shape, expanded=expanded, run=16, taught=True)  # type: ignore[arg-type]
        batch = cut(corpus, [3, 9], spec)
        assert batch.full_ids is not None
        assert batch.student_index is not None
        assert len(batch.student_index) == 2 * compared
        (full_ids,) = batch.full_ids
        assert full_ids.shape[1] == 104  # the separator, 96 and 7 tokens
