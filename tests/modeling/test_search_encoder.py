from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from refrag_components.modeling import search_encoder
from refrag_components.modeling.chunk_encoder import load_encoder
from refrag_components.modeling.search_encoder import SearchEncoder
from tests.tiny import TEXT


@pytest.fixture(scope="module")
def encoder(tiny_base: tuple[Path, Path]) -> SearchEncoder:
    return SearchEncoder(tiny_base[1])


def test_a_search_vector_is_the_mean_of_the_token_states(
    encoder: SearchEncoder, tiny_base: tuple[Path, Path]
) -> None:
    inputs = AutoTokenizer.from_pretrained(tiny_base[1])(TEXT[1], return_tensors="pt")
    with torch.inference_mode():
        states = load_encoder(tiny_base[1])(**inputs).last_hidden_state[0]
    mean = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
    np.testing.assert_allclose(encoder.embed([TEXT[1]], device="cpu")[0], mean, atol=1e-5)


def test_texts_together_and_alone_have_the_same_vectors(encoder: SearchEncoder) -> None:
    texts = [*TEXT, "", "half \ud835 a character", " ".join(TEXT * 9)]
    together = encoder.embed(texts, device="cpu", batch_size=3)
    alone = [encoder.embed([text], device="cpu")[0] for text in texts]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_many_texts_keep_their_order_and_are_counted(
    encoder: SearchEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_encoder, "_TOKENISED_AT_ONCE", 4)
    texts = [text[:length] for length in (80, 3, 20) for text in TEXT]
    done: list[int] = []
    rows = encoder.embed(texts, device="cpu", batch_size=3, progress=done.append)
    assert sum(done) == len(texts)
    assert max(done) == 3
    alone = [encoder.embed([text], device="cpu")[0] for text in texts]
    np.testing.assert_allclose(rows, np.stack(alone), atol=1e-5)


def test_no_texts_have_no_vectors(encoder: SearchEncoder) -> None:
    assert encoder.embed([], device="cpu").shape == (0, 24)


def test_token_vectors_are_the_states_of_all_but_special_tokens(
    encoder: SearchEncoder, tiny_base: tuple[Path, Path]
) -> None:
    texts = [TEXT[0], f"[CLS]{TEXT[1]}[SEP]", ""]  # the tiny tokenizer adds no ends of its own
    rows, tokens = encoder.embed_tokens(texts, device="cpu", batch_size=2)
    np.testing.assert_allclose(rows, encoder.embed(texts, device="cpu"), atol=1e-6)
    inputs = AutoTokenizer.from_pretrained(tiny_base[1])(texts[1], return_tensors="pt")
    with torch.inference_mode():
        states = load_encoder(tiny_base[1])(**inputs).last_hidden_state[0]
    expected = torch.nn.functional.normalize(states[1:-1], dim=-1)
    np.testing.assert_allclose(tokens[1], expected, atol=1e-5)
    assert len(tokens[2]) == 1  # a text without tokens has one
    assert encoder.embed_tokens([], device="cpu")[1] == []
