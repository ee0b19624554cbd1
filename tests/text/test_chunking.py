from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.text.chunking import Chunker
from tests.tiny import TEXT, tiny_decoder_tokenizer

TOKENIZER = tiny_decoder_tokenizer()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(text=texts, k=st.integers(1, 9))
def test_chunks_are_the_decoders_own_tokens(text: str, k: int) -> None:
    (passage,) = Chunker(TOKENIZER, k).chunk([text])
    assert TOKENIZER.decode(passage.token_ids, clean_up_tokenization_spaces=False) == text
    lengths = [last - first + 1 for first, last in passage.bounds]
    assert sum(lengths) == len(passage.token_ids)
    assert all(length == k for length in lengths[:-1])
    assert passage.n_chunks == len(lengths) == len(passage.chunk_texts())


@given(batch=st.lists(texts, max_size=6))
def test_a_passage_is_cut_the_same_in_any_company(batch: list[str]) -> None:
    chunker = Chunker(TOKENIZER, 4)
    for text, passage in zip(batch, chunker.chunk(batch), strict=True):
        assert np.array_equal(passage.token_ids, chunker.chunk([text])[0].token_ids)


@given(batch=st.lists(texts, max_size=6), k=st.integers(1, 9))
def test_chunks_are_the_same_without_offsets(batch: list[str], k: int) -> None:
    chunker = Chunker(TOKENIZER, k)
    batch += ["a <|im_end|> b", ""]
    bare = chunker.chunk(batch, offsets=False)
    for passage, found in zip(chunker.chunk(batch), bare, strict=True):
        assert np.array_equal(found.token_ids, passage.token_ids)
        assert (found.text, found.n_chunks) == (passage.text, passage.n_chunks)
        assert found.offsets.shape == (0, 2)


def test_chunk_texts_spell_the_passage() -> None:
    for text in TEXT:
        (passage,) = Chunker(TOKENIZER, 3).chunk([text])
        assert "".join(passage.chunk_texts()) == text


@pytest.mark.parametrize("token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
def test_spelled_out_control_tokens_are_ordinary_characters(token: str) -> None:
    (passage,) = Chunker(TOKENIZER, 4).chunk([f"a {token} b"])
    assert not set(TOKENIZER.all_special_ids) & set(passage.token_ids.tolist())
    assert TOKENIZER.decode(passage.token_ids) == f"a {token} b"


def test_chunk_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Chunker(TOKENIZER, 0)


def test_questions_are_cut_alike_whatever_the_chunk_size() -> None:
    question = "  Where does the harbour lie? "
    [blank, asked] = Chunker(TOKENIZER, 8).cut_questions([" \n", question])
    assert blank.n_chunks == 0
    assert "".join(asked.chunk_texts()) == question.strip()
    assert asked.n_chunks == -(-len(asked.token_ids) // 2)
    assert asked.chunk_texts() == Chunker(TOKENIZER, 4).cut_questions([question])[0].chunk_texts()


def test_a_passage_can_be_given_as_tokens() -> None:
    tokenizer = tiny_decoder_tokenizer()
    chunker = Chunker(tokenizer, 4)
    (whole,) = chunker.chunk(["The harbour — lies north, 12.5% of it."])
    again = chunker.from_tokens(whole.token_ids)
    np.testing.assert_array_equal(again.token_ids, whole.token_ids)
    assert again.n_chunks == whole.n_chunks
    # But for the dash, whose bytes are three tokens here, it is the same text.
    assert again.text.replace("\ufffd" * 3, "—") == whole.text
    part = chunker.from_tokens(np.append(whole.token_ids[2:7], tokenizer.bos_token_id))
    assert part.text == again.text[again.offsets[2, 0] : again.offsets[6, 1]]
    assert part.offsets[-1].tolist() == [len(part.text)] * 2  # a special token has no text
    assert chunker.from_tokens(np.zeros(0, dtype=np.int64)).n_chunks == 0
