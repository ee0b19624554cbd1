"""Training batches must be what the model sees at query time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import (
    IGNORED,
    Batch,
    TokenisedCorpus,
    WindowSpec,
    batch_logits,
    batch_vectors,
    cut_windows,
    prepare_corpus,
)
from refrag_components.engines.decoder_batch import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.projector import Projector
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def corpus(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    folder = tmp_path_factory.mktemp("corpus") / "prepared"
    prepare_corpus([*TEXT, " ".join(TEXT)] * 3, tiny_model, folder)
    return TokenisedCorpus.load(folder)


def cut(
    model: RefragModel, corpus: TokenisedCorpus, starts: list[int], **shape: object
) -> tuple[WindowSpec, Batch]:
    spec = WindowSpec(chunk_size=4, **shape)  # type: ignore[arg-type]
    batch = cut_windows(
        corpus,
        np.array(starts),
        spec,
        encoder=model.encoder,
        separator=model.first_token_id,
        rng=np.random.default_rng(0),
        with_full_text=True,
        with_context_labels=True,
    )
    return spec, batch


def test_pieces_cover_the_same_characters_as_tokens(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    """The encoder tokens under a document's tokens spell that document."""
    ends = np.flatnonzero(corpus.tokens == tiny_model.first_token_id)
    start, end = int(ends[0]) + 1, int(ends[1]) - 1
    pieces = corpus.pieces[corpus.covering[start] : corpus.covering[end] + 1]
    words = tiny_model.encoder.tokenizer(TEXT[1], add_special_tokens=False).input_ids
    assert pieces.tolist() == words


@pytest.fixture(scope="module", params=["vectors and tokens", "vectors alone"])
def either_model(
    request: pytest.FixtureRequest,
    tiny_model: RefragModel,
    tiny_base: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> RefragModel:
    """The tiny checkpoint, or one like it whose projector reads chunk vectors alone."""
    if request.param == "vectors and tokens":
        return tiny_model
    decoder, encoder = map(str, tiny_base)
    config = RefragConfig(decoder=decoder, encoder=encoder, chunk_size=4, token_mlp=0)
    model = RefragModel.from_base(config)
    assert isinstance(model.projector, Projector)
    model.save_pretrained(folder := tmp_path_factory.mktemp("vectors") / "model")
    return RefragModel.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("expanded", [0.0, 0.25, 1.0])
def test_a_window_of_one_document_equals_its_layout(
    either_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    """Same text, same chunks: the batch and the query-time layout give the same logits."""
    ends = np.flatnonzero(corpus.tokens == either_model.first_token_id)
    start, size, o = int(ends[0]) + 1, int(ends[1] - ends[0]) - 1, 2
    _, batch = cut(
        either_model,
        corpus,
        [start],
        passages=1,
        passage_tokens=size,
        output_tokens=o,
        expanded=expanded,
    )
    (vectors,) = either_model.encode_passages([TEXT[1]])
    shown = batch.chunk_index[0].numpy()
    choice = np.array([i not in shown for i in range(vectors.n_chunks)])
    assert choice.sum() == round(expanded * vectors.n_chunks)
    tail = np.asarray(corpus.tokens[start + size : start + size + o - 1])
    first = TextSegment(np.array([either_model.first_token_id]))
    layout = Layout((first, PassageSegment(vectors, choice), TextSegment(tail)))
    with torch.inference_mode():
        mine = batch_logits(either_model, batch)
        inputs = embed_layouts(either_model, [layout])
        with either_model.chunk_mask.using(inputs.chunk_mask):
            theirs = either_model.decoder(inputs_embeds=inputs.inputs_embeds).logits[:, -o:]
    torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=1e-3)  # stored vectors are float16


def test_shapes_are_what_the_spec_says(tiny_model: RefragModel, corpus: TokenisedCorpus) -> None:
    for expanded in (0.0, 0.5, 1.0):
        spec, batch = cut(
            tiny_model,
            corpus,
            [0, 7, 30],
            passages=2,
            passage_tokens=16,
            output_tokens=8,
            expanded=expanded,
        )
        assert batch.token_ids.shape == (3, spec.positions - 1)
        assert (batch.chunk_index >= 0).sum() == 3 * round((1 - expanded) * 8)
        assert batch.labels.shape == (3, 8)
        for row, start in enumerate([0, 7, 30]):
            assert batch.labels[row].tolist() == corpus.tokens[start + 32 : start + 40].tolist()


def test_reconstruction_repeats_the_context(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    _, batch = cut(
        tiny_model, corpus, [3], passages=1, passage_tokens=10, output_tokens=10, reconstruct=True
    )
    assert batch.labels[0].tolist() == corpus.tokens[3:13].tolist()
    assert batch.chunk_tokens[batch.chunk_used].tolist() == corpus.tokens[3:13].tolist()
    assert batch.token_ids.shape[1] == 1 + 3 + 1 + 9


@pytest.mark.parametrize("expanded", [0.0, 0.5, 1.0])
def test_context_positions_predict_the_text_that_follows_them(
    tiny_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    """Read back what every position stands for; its label is the first token after that."""
    start, s = 5, 22
    _, batch = cut(
        tiny_model,
        corpus,
        [start],
        passages=2,
        passage_tokens=s // 2,
        output_tokens=3,
        expanded=expanded,
    )
    assert batch.context_labels is not None
    stands_for = [
        batch.chunk_tokens[chunk][batch.chunk_used[chunk]].tolist() if chunk >= 0 else [token]
        for token, chunk in zip(
            batch.token_ids[0].tolist(), batch.chunk_index[0].tolist(), strict=True
        )
    ]
    ends = start + np.cumsum([len(tokens) for tokens in stands_for]) - 1  # but for the separator
    labels = torch.cat([batch.context_labels, batch.labels], dim=1)[0]
    assert labels.tolist() == corpus.tokens[ends].tolist()


def test_nothing_predicts_the_separator_before_a_reconstruction(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    _, batch = cut(
        tiny_model, corpus, [3], passages=1, passage_tokens=10, output_tokens=10, reconstruct=True
    )
    assert batch.context_labels is not None
    assert batch.context_labels[0].tolist() == [*corpus.tokens[[3, 7, 11]].tolist(), IGNORED]
    everywhere = batch_logits(tiny_model, batch, everywhere=True)
    predicted = batch.context_labels.shape[1] + batch.labels.shape[1]
    assert everywhere.shape[1] == predicted
    torch.testing.assert_close(everywhere[:, -10:], batch_logits(tiny_model, batch))


def two_windows(
    model: RefragModel, corpus: TokenisedCorpus, **shape: object
) -> tuple[WindowSpec, Batch]:
    """Windows of two passages at the tokens 3 and 40."""
    return cut(model, corpus, [3, 40], passages=2, **shape)


def test_recent_chunks_expand_last(tiny_model: RefragModel, corpus: TokenisedCorpus) -> None:
    _, batch = two_windows(
        tiny_model, corpus, passage_tokens=18, output_tokens=3, expanded=0.3, recent=True
    )
    chunks = [True] * 6 + [False] * 12 + [True]  # the last chunk of a passage is too short
    assert batch.chunk_index.ge(0)[0].tolist() == [False, *chunks, False, False]
    expected = corpus.tokens[40 + 22 : 40 + 34].tolist()
    assert batch.token_ids[1, 7:19].tolist() == expected


@pytest.mark.parametrize("expanded", [0.0, 0.5, 1.0])
def test_recalled_spans_come_from_anywhere_in_the_context(
    tiny_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    spec, batch = two_windows(
        tiny_model, corpus, passage_tokens=16, output_tokens=12, recalled=6, expanded=expanded
    )
    assert spec.span == 32
    assert batch.full_ids is not None
    assert batch.context_labels is not None
    assert (batch.context_labels[:, -1] == IGNORED).all()
    predicted = batch.context_labels.shape[1] + batch.labels.shape[1]
    assert predicted == batch.token_ids.shape[1]
    given = torch.tensor([True, True, False, False, False, False] * 2)
    firsts = set()
    for row, start in enumerate([3, 40]):
        context = corpus.tokens[start : start + 32].tolist()
        assert batch.full_ids[row, 1:33].tolist() == context
        # A second separator tells a quotation from text that goes on.
        assert batch.full_ids[row, 33] == batch.full_ids[row, 0] == tiny_model.first_token_id
        output = [*batch.full_ids[row, 34:].tolist(), int(batch.labels[row, -1])]
        assert batch.token_ids[row, -12:].tolist() == [tiny_model.first_token_id, *output[:-1]]
        assert batch.labels[row].tolist() == [
            IGNORED if hidden else token for hidden, token in zip(given, output, strict=True)
        ]
        for span in (output[:6], output[6:]):
            places = [i for i in range(27) if context[i : i + 6] == span]
            assert places
            firsts.update(places)
    assert len(firsts) > 2


@pytest.mark.parametrize("expanded", [0.0, 0.3, 1.0])
def test_shuffled_passages_are_the_same_passages(
    tiny_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    """Each row has an order of its own; what its passages say and how they encode stays."""
    shape = {"passages": 4, "passage_tokens": 10, "output_tokens": 3, "expanded": expanded}
    starts = [3, 20, 40, 60]
    _, batch = cut(tiny_model, corpus, starts, shuffled=True, **shape)
    _, in_order = cut(tiny_model, corpus, starts, **shape)
    assert batch.full_ids is not None
    assert in_order.full_ids is not None
    orders = []
    for mixed, straight in zip(batch.full_ids, in_order.full_ids, strict=True):
        passages = straight[1:41].view(4, 10).tolist()
        orders.append([passages.index(own) for own in mixed[1:41].view(4, 10).tolist()])
        assert torch.equal(mixed[41:], straight[41:])
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    if expanded < 1:
        vectors = batch_vectors(tiny_model, batch).view(4, 4, 3, -1)
        expected = batch_vectors(tiny_model, in_order).view(4, 4, 3, -1)
        for row, order in enumerate(orders):
            torch.testing.assert_close(vectors[row], expected[row, order])


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("expanded", [0.0, 0.3, 1.0])
def test_each_context_position_stands_for_its_last_token(
    tiny_model: RefragModel, corpus: TokenisedCorpus, expanded: float, shuffled: bool
) -> None:
    shape = {"passage_tokens": 18, "output_tokens": 5, "expanded": expanded}
    _, batch = two_windows(tiny_model, corpus, shuffled=shuffled, **shape)
    assert batch.full_ids is not None
    assert batch.context_index is not None
    meant = batch.full_ids.flatten()[batch.context_index]
    own = slice(1, 1 + batch.context_index.shape[1])
    chunks = batch.chunk_index[:, own]
    assert torch.equal(meant[chunks < 0], batch.token_ids[:, own][chunks < 0])
    if expanded < 1:
        used = batch.chunk_used[chunks[chunks >= 0]]
        tokens = batch.chunk_tokens[chunks[chunks >= 0]]
        last = tokens.gather(1, used.sum(dim=1, keepdim=True) - 1)[:, 0]
        assert torch.equal(meant[chunks >= 0], last)
    in_row = batch.context_index - torch.arange(2)[:, None] * batch.full_ids.shape[1]
    assert in_row.diff(dim=1).gt(0).all()
    assert in_row[:, -1].tolist() == [36, 36]


def test_gradients_reach_encoder_projector_and_decoder(
    tiny_folder: Path, corpus: TokenisedCorpus
) -> None:
    model = RefragModel.for_training(tiny_folder)
    _, batch = cut(model, corpus, [0], passages=1, passage_tokens=16, output_tokens=8)
    loss = torch.nn.functional.cross_entropy(
        batch_logits(model, batch).flatten(0, 1), batch.labels.flatten()
    )
    loss.backward()
    for part in (model.encoder, model.projector, model.decoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_chunks_expand_in_runs_of_whole_chunks(
    tiny_model: RefragModel, corpus: TokenisedCorpus
) -> None:
    spec, batch = cut(
        tiny_model,
        corpus,
        [0, 9, 21],
        passages=1,
        passage_tokens=64,
        output_tokens=8,
        expanded=0.5,
        run=4,
    )
    assert batch.token_ids.shape == (3, spec.positions - 1)
    for row, shown in enumerate(batch.chunk_index):
        compressed = shown[shown >= 0] - row * 16
        expanded = sorted(set(range(16)) - set(compressed.tolist()))
        assert len(expanded) == 8
        assert {first // 4 * 4 + i for first in expanded for i in range(4)} == set(expanded)


@settings(max_examples=60)
@given(
    chunks=st.integers(1, 40),
    run=st.integers(1, 20),
    expanded=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_as_many_chunks_expand_as_the_spec_says(
    tiny_model: RefragModel,
    corpus: TokenisedCorpus,
    chunks: int,
    run: int,
    expanded: float,
    seed: int,
) -> None:
    spec = WindowSpec(
        chunk_size=4,
        passages=1,
        passage_tokens=4 * chunks,
        output_tokens=4,
        expanded=expanded,
        run=min(run, chunks),
    )
    batch = cut_windows(
        corpus,
        np.array([0, 3]),
        spec,
        encoder=tiny_model.encoder,
        separator=tiny_model.first_token_id,
        rng=np.random.default_rng(seed),
    )
    most = chunks // spec.run * spec.run
    shown = int((batch.chunk_index[0] >= 0).sum())
    assert chunks - shown == min(spec.runs(chunks) * spec.run, most)
    assert spec.runs(chunks) >= (spec.run > 1)


def test_the_last_chunks_are_not_drawn_in_runs() -> None:
    with pytest.raises(ValueError, match="run is a number of random chunks"):
        WindowSpec(chunk_size=4, passages=1, passage_tokens=8, output_tokens=4, run=2, recent=True)


@pytest.mark.parametrize("expanded", [0.0, 0.25, 1.0])
def test_expanded_tokens_have_their_place_in_the_full_text(
    tiny_model: RefragModel, corpus: TokenisedCorpus, expanded: float
) -> None:
    _, batch = two_windows(
        tiny_model, corpus, passage_tokens=32, output_tokens=8, expanded=expanded
    )
    assert batch.expanded_index is not None
    assert batch.expanded_full_index is not None
    assert batch.full_ids is not None
    assert batch.expanded_index.shape == (2, 64 * expanded)
    mine = batch.token_ids.flatten()[batch.expanded_index]
    assert torch.equal(mine, batch.full_ids.flatten()[batch.expanded_full_index])
    assert (batch.chunk_index.flatten()[batch.expanded_index] == -1).all()
