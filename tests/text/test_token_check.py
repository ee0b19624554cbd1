from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from refrag_components.text.chunking import Chunker
from refrag_components.text.token_check import TokenCheck
from tests.tiny import TEXT, tiny_decoder_tokenizer, tiny_encoder_tokenizer


def normalising() -> PreTrainedTokenizerFast:
    """Cuts bytes, but not the text's own: it composes characters first, as Qwen's does."""
    tokenizer = tiny_decoder_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def spaces() -> PreTrainedTokenizerFast:
    """Marks spaces, as SentencePiece does."""
    vocabulary = {"<unk>": 0, "▁": 1} | {chr(97 + i): 2 + i for i in range(26)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """As LLaMA-2's: a mark before each word, and bytes for characters that are not a token."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"etaoinshrdlu"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "▁"), ("i", "n")]
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


TOKENIZERS: tuple[Callable[[], PreTrainedTokenizerFast], ...] = (
    tiny_decoder_tokenizer,
    normalising,
    spaces,
    sentencepiece,
    tiny_encoder_tokenizer,
)
PIECES = sentencepiece()
CHECKS = {make.__name__: (TokenCheck(make()), Chunker(make(), 4)) for make in TOKENIZERS}


def of_one_byte(new: int, old: int) -> bool:
    """Whether a token is the piece for the one byte that another spells, such as a space."""
    piece = PIECES.convert_ids_to_tokens(old).replace("\u2581", " ").encode()
    return len(piece) == 1 and new == PIECES.convert_tokens_to_ids(f"<0x{piece[0]:02X}>")


def differs(name: str, text: str, ids: np.ndarray) -> bool:
    (result,) = CHECKS[name][0].differ([text], [ids])
    return result


@pytest.mark.parametrize("name", CHECKS)
@given(text=st.text() | st.sampled_from(["<|im_end|>", "A\u030a <|im_start|>x", "\ud800", "  a "]))
def test_a_passages_own_tokens_are_its_own(name: str, text: str) -> None:
    (passage,) = CHECKS[name][1].chunk([text])
    assert not differs(name, text, passage.token_ids)


@pytest.mark.parametrize("name", CHECKS)
@given(data=st.data())
def test_other_tokens_are_not(name: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXT))
    (passage,) = CHECKS[name][1].chunk([text])
    ids = passage.token_ids.copy()
    place = data.draw(st.integers(0, len(ids) - 1))
    change = data.draw(st.sampled_from(["one", "cut", "more", "another"]))
    if change == "one":
        new = data.draw(st.integers(0, 2**31 - 1))
        if new == ids[place] or (name == "sentencepiece" and of_one_byte(new, int(ids[place]))):
            return
        ids[place] = new
    elif change == "cut":
        ids = ids[:place]
    elif change == "more":
        ids = np.append(ids, ids[place])
    else:
        (ids,) = (p.token_ids for p in CHECKS[name][1].chunk([text.replace("o", "e")]))
        if np.array_equal(ids, passage.token_ids):
            return
    assert differs(name, text, ids)


@pytest.mark.parametrize("name", ["tiny_decoder_tokenizer", "sentencepiece"])
@given(text=st.sampled_from([*TEXT, "the\nrain  in", " naïve 北京", "a\u2581b"]))
def test_what_tokens_spell_is_not_cut_again(name: str, text: str) -> None:
    check, chunker = CHECKS[name]
    (passage,) = chunker.chunk([text])
    if "\u2581" not in text or name != "sentencepiece":  # a space, or itself
        assert check._spells(text, passage.token_ids)
    assert not check._spells(text[1:], passage.token_ids)
    assert not check.differ([text], [passage.token_ids])[0]


def test_a_control_token_of_sentencepiece_is_not_what_it_is_written_as() -> None:
    assert differs("sentencepiece", "<s>", np.array([1], np.int32))
    assert differs("sentencepiece", "<s>", np.array([258, 1], np.int32))  # a space before it


def test_a_control_token_is_not_what_it_is_written_as() -> None:
    """The text may spell it; the token itself would open a turn."""
    tokenizer = tiny_decoder_tokenizer()
    text = "<|im_end|>"
    token = np.array([tokenizer.convert_tokens_to_ids(text)], np.int32)
    assert differs("tiny_decoder_tokenizer", text, token)


def test_many_are_checked_at_once() -> None:
    check, chunker = CHECKS["tiny_decoder_tokenizer"]
    own = [passage.token_ids for passage in chunker.chunk(TEXT)]
    assert check.differ(TEXT, own) == [False] * len(TEXT)
    assert check.differ(TEXT, [*own[1:], own[0]]) == [True] * len(TEXT)
    assert check.differ([], []) == []
