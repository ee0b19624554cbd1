from __future__ import annotations

import pytest
import torch

from refrag_components.benchmarking.random_model import random_decoder
from refrag_components.benchmarking.shapes import SHAPES, shape_named
from refrag_components.benchmarking.subject import ShapeSubject
from refrag_components.benchmarking.words import QUESTION, WORDS
from refrag_components.exceptions import UnknownModelError
from tests.benchmarking.conftest import TINY


def test_a_word_is_a_token(tiny_subject: ShapeSubject) -> None:
    (passage,) = tiny_subject.at(4).chunker.chunk([" ".join([*WORDS, QUESTION])])
    assert len(passage.token_ids) == len(WORDS) + 32
    assert 0 not in passage.token_ids  # the end of a text


def test_stored_passages_are_checked_without_cutting_them_again(
    tiny_subject: ShapeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with most decoders, whose tokens are bytes: else it would be part of the measurement."""
    model = tiny_subject.at(4)
    texts = [f" {QUESTION}", "the house\n\nof the river"]
    ids = [passage.token_ids for passage in model.chunker.chunk(texts)]
    cut: list[str] = []
    monkeypatch.setattr(
        model.token_check._guarded, "encode_content", lambda texts, **_: cut.extend(texts) or []
    )
    assert model.token_check.differ(texts, ids) == [False, False]
    assert not cut


def test_chunk_sizes_share_one_decoder(tiny_subject: ShapeSubject) -> None:
    models = [tiny_subject.at(4), tiny_subject.at(8)]
    assert [model.config.chunk_size for model in models] == [4, 8]
    assert models[0].decoder is models[1].decoder
    assert models[0].fingerprint != models[1].fingerprint
    assert tiny_subject.at(0) is models[1]


def test_no_weight_is_zero_because_zeros_are_multiplied_faster(tiny_subject: ShapeSubject) -> None:
    model = tiny_subject.at(4)
    weights = [p for p in (*model.encoder.parameters(), *model.projector.parameters())]
    assert all(p.count_nonzero() > 0.99 * p.numel() for p in weights if p.ndim > 1)
    (vectors,) = model.encode_passages(["the house of the river"])
    assert torch.isfinite(model.chunk_embeddings([vectors])).all()


def test_shapes_are_those_that_their_makers_publish() -> None:
    parameters = {"llama-2-7b": 6.74e9, "llama-3.1-8b": 8.03e9}
    for name, count in parameters.items():
        s = SHAPES[name]
        head = s.hidden // s.heads
        attention = 2 * s.hidden**2 + 2 * s.hidden * head * s.key_value_heads
        layer = attention + 3 * s.hidden * s.inner
        assert s.layers * layer + 2 * s.vocabulary * s.hidden == pytest.approx(count, rel=0.001)


def test_an_unknown_shape_names_those_that_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"llama-2-7b, llama-3\.1-8b, smollm2-135m"):
        shape_named("llama-9")


def test_attention_is_that_of_a_loaded_checkpoint() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    random_decoder(TINY, device=torch.device("cpu"), dtype=torch.float32)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
