from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from refrag_components.modeling.chunk_encoder import (
    ChunkEncoder,
    batches,
    covering_tokens,
    load_encoder,
    pool_spans,
)
from refrag_components.text.chunking import Chunker
from tests.tiny import (
    TEXT,
    save_tiny_encoder,
    tiny_decoder_tokenizer,
    tiny_encoder_config,
    tiny_encoder_tokenizer,
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def chunker() -> Chunker:
    return Chunker(tiny_decoder_tokenizer(), 4)


def with_specials(text: str) -> torch.Tensor:
    tokenizer = tiny_encoder_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", [[1, 3, 4], [0], [2], [5]]), ("cuda", [[1, 3, 4, 0], [2, 5]])],
)
def test_batches_hold_similar_lengths_and_on_a_cpu_few_tokens(
    device: str, expected: list[list[int]]
) -> None:
    lengths = [300, 10, 1000, 200, 250, 2000]
    assert list(batches(lengths, 4, torch.device(device))) == expected


def test_pooling_is_the_mean_over_each_span() -> None:
    states = torch.randn(2, 7, 5)
    spans = torch.tensor([[[0, 0], [1, 3]], [[2, 6], [5, 5]]])
    pooled = pool_spans(states, spans)
    for row in range(2):
        for i, (first, last) in enumerate(spans[row].tolist()):
            torch.testing.assert_close(pooled[row, i], states[row, first : last + 1].mean(0))


def test_covering_finds_the_encoder_token_over_a_decoder_tokens_last_character() -> None:
    starts = np.array([0, 4, 5, 11])
    ends = np.array([1, 4, 5, 9, 12])
    assert covering_tokens(ends, starts).tolist() == [0, 0, 1, 2, 3]


def test_contextual_vectors_depend_on_their_surroundings_and_others_do_not(
    bert: Path, chunker: Chunker
) -> None:
    shared = TEXT[0]
    passages = chunker.chunk([f"{shared} {TEXT[1]}", f"{shared} {TEXT[2]}"])
    same = []
    for contextual in (True, False):
        encoder = ChunkEncoder(load_encoder(bert), tiny_encoder_tokenizer(), contextual=contextual)
        first, second = encoder.encode(passages)
        same.append(np.allclose(first[0], second[0], atol=1e-4))
    assert same == [False, True]


def test_cls_pooling_takes_the_first_position(bert: Path, chunker: Chunker) -> None:
    model, tokenizer = load_encoder(bert), tiny_encoder_tokenizer()
    encoder = ChunkEncoder(model, tokenizer, pooling="cls", contextual=False)
    passages = chunker.chunk([TEXT[3]])
    (vectors,) = encoder.encode(passages)
    with torch.inference_mode():
        for text, vector in zip(passages[0].chunk_texts(), vectors, strict=True):
            states = model(input_ids=with_specials(text)).last_hidden_state
            np.testing.assert_allclose(vector, states[0, 0].numpy(), atol=1e-4)


def test_mean_pooling_of_a_lone_chunk_leaves_special_tokens_out(
    bert: Path, chunker: Chunker
) -> None:
    model, tokenizer = load_encoder(bert), tiny_encoder_tokenizer()
    encoder = ChunkEncoder(model, tokenizer, contextual=False)
    passages = chunker.chunk([TEXT[3]])
    (vectors,) = encoder.encode(passages)
    with torch.inference_mode():
        states = model(input_ids=with_specials(passages[0].chunk_texts()[0]))
    mean = states.last_hidden_state[0, 1:-1].mean(0).numpy()
    np.testing.assert_allclose(vectors[0], mean, atol=1e-4)


def test_long_passages_are_cut_into_windows_at_chunk_boundaries(
    bert: Path, chunker: Chunker
) -> None:
    encoder = ChunkEncoder(load_encoder(bert), tiny_encoder_tokenizer())
    (passage,) = chunker.chunk([" ".join(TEXT)])
    windows = encoder.windows(passage)
    assert len(windows) > 1
    assert sum(len(window.spans) for window in windows) == passage.n_chunks
    for window in windows:
        assert len(window.input_ids) <= encoder.window
        assert (window.spans[:, 0] <= window.spans[:, 1]).all()
        assert window.spans.min() >= 1
        assert window.spans.max() < len(window.input_ids) - 1


def test_roberta_counts_its_positions_from_the_padding(chunker: Chunker) -> None:
    tokenizer = tiny_encoder_tokenizer()
    tokenizer.model_max_length = 10_000
    config = tiny_encoder_config(RobertaConfig, max_position_embeddings=40, pad_token_id=1)
    encoder = ChunkEncoder(RobertaModel(config, add_pooling_layer=False).eval(), tokenizer)
    assert encoder.window == 38
    passages = chunker.chunk([" ".join(TEXT * 2)])
    (vectors,) = encoder.encode(passages)
    assert vectors.shape == (passages[0].n_chunks, 24)
    assert np.isfinite(vectors).all()


def test_text_that_the_encoder_cannot_see_still_gets_vectors(bert: Path, chunker: Chunker) -> None:
    encoder = ChunkEncoder(load_encoder(bert), tiny_encoder_tokenizer())
    passages = chunker.chunk(["\n \t\n      \n\n", "", "\u200b"])
    for passage, vectors in zip(passages, encoder.encode(passages), strict=True):
        assert vectors.shape == (passage.n_chunks, encoder.width)
        assert np.isfinite(vectors).all()
