"""Content next to control tokens, with the kinds of tokenizers that decoders have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from refrag_components.prompts.parts import ControlPart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.text.chunking import Chunker
from refrag_components.text.guarded import GuardedTokenizer
from refrag_components.text.token_check import TokenCheck
from tests.tiny import tiny_decoder_tokenizer

_LETTERS = "abcdeknoprstu<|>/¤ \n"
_CONTROL = ("<s>", "</s>", "<pad>", "¤", "<|end|>")


def _tokenizer(
    model: models.Model, *, strips: bool, bos: str = "<s>", eos: str = "</s>"
) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model),
        unk_token="<unk>",
        bos_token=bos,
        eos_token=eos,
        pad_token="<pad>",
    )
    added = [
        AddedToken("¤", normalized=False, special=True),
        AddedToken("<|end|>", normalized=False, special=True, lstrip=strips, rstrip=strips),
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    return tokenizer


def _pieces() -> list[str]:
    return [*("<unk>", *_CONTROL), "▁", *_LETTERS.replace(" ", ""), "▁a", "st", "▁<s>", "nd"]


def unigram(scheme: str = "always", *, strips: bool = False) -> PreTrainedTokenizerFast:
    """As T5's and XGLM's: control tokens are pieces, and the likeliest ones."""
    scored = [(piece, 0.0 if piece in _CONTROL else -2.0) for piece in _pieces() if piece != "▁<s>"]
    tokenizer = _tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=False), strips=strips)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def unigram_first() -> PreTrainedTokenizerFast:
    return unigram("first", strips=True)


def llama() -> PreTrainedTokenizerFast:
    """As Llama 2's and Phi-3's: a space before each stretch of text."""
    pieces = {piece: i for i, piece in enumerate(_pieces()) if piece != "▁<s>"}
    model = models.BPE(pieces, [("▁", "a"), ("s", "t"), ("n", "d")], unk_token="<unk>")
    tokenizer = _tokenizer(model, strips=True)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return tokenizer


def bytewise() -> PreTrainedTokenizerFast:
    tokenizer = tiny_decoder_tokenizer()
    tokens = [
        AddedToken("<|end|>", normalized=False, special=True, lstrip=True, rstrip=True),
        AddedToken("\x02", normalized=False, special=True),
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    make.__name__: make for make in (unigram, unigram_first, llama, bytewise)
}
TOKENIZERS = {name: make() for name, make in KINDS.items()}
CHUNKERS = {name: Chunker(tokenizer, 4) for name, tokenizer in TOKENIZERS.items()}
CHECKS = {name: TokenCheck(tokenizer) for name, tokenizer in TOKENIZERS.items()}
PROMPTS = {name: PromptTokenizer(tokenizer) for name, tokenizer in TOKENIZERS.items()}

# Letters, white space, control tokens and parts of them, in any order.
_PARTS = ("a", "st", "end", " ", "\n", "  ", "\x02", "<|", "|>", "</", "s>", "<s", "<unk>")
contents = st.lists(st.sampled_from((*_PARTS, *_CONTROL)), max_size=10).map("".join)
# What Unigram and BPE here have no character for, and one character that is a control token.
_UNSPELT = str.maketrans("", "", "¤\x02")


def control_ids(name: str) -> set[int]:
    tokenizer = TOKENIZERS[name]
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def spelt(name: str, ids: list[int]) -> str:
    """Token ids as text, in which a space that the tokenizer put first counts as none."""
    tokens = TOKENIZERS[name].convert_ids_to_tokens(ids)
    if name == "bytewise":
        return TOKENIZERS[name].decode(ids, clean_up_tokenization_spaces=False)
    return "".join("" if token == "<unk>" else token for token in tokens).replace("▁", " ")


@pytest.mark.parametrize("name", KINDS)
@given(text=contents)
def test_a_passage_yields_no_control_token_and_is_read_whole(name: str, text: str) -> None:
    (passage,) = CHUNKERS[name].chunk([text])
    ids = passage.token_ids.tolist()
    assert not control_ids(name) & set(ids)
    read = spelt(name, ids)
    if name == "bytewise":
        assert read == text
    else:
        assert read.lstrip(" ") == text.translate(_UNSPELT).lstrip(" ")
        assert len(read) - len(text.translate(_UNSPELT)) in (0, 1)
    assert CHECKS[name].differ([text], [passage.token_ids]) == [False]
    starts = [start for start, _ in passage.offsets.tolist()]
    assert starts == sorted(starts)
    assert all(0 <= start <= end <= len(text) for start, end in passage.offsets.tolist())


@pytest.mark.parametrize("name", KINDS)
@given(before=contents, after=contents)
def test_content_next_to_a_control_token_neither_breaks_it_nor_is_altered(
    name: str, before: str, after: str
) -> None:
    """Also where the token takes white space along."""
    tokenizer = TOKENIZERS[name]
    control = tokenizer.convert_tokens_to_ids("<|end|>")
    parts = [TextPart(before), ControlPart("<|end|>"), TextPart(after)]
    ids = PROMPTS[name].encode(parts).tolist()
    found = [i for i in ids if i in control_ids(name)]
    assert found == [control]
    place = ids.index(control)
    for own, text in ((ids[:place], before), (ids[place + 1 :], after)):
        read = spelt(name, own)
        if name == "bytewise":
            assert read == text
        else:
            assert read.lstrip(" ") == text.translate(_UNSPELT).lstrip(" ")


@pytest.mark.parametrize("name", KINDS)
def test_a_template_takes_its_own_white_space_along(name: str) -> None:
    """As the tokenizer does it without us."""
    tokenizer = TOKENIZERS[name]
    text = "<|end|> \n<|end|>a"
    expected = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    parts = [ControlPart("<|end|> \n<|end|>"), TextPart("a")]
    assert PROMPTS[name].encode(parts).tolist() == expected


@pytest.mark.parametrize("name", KINDS)
@given(texts=st.lists(contents, min_size=1, max_size=4))
def test_many_texts_are_cut_as_each_alone(name: str, texts: list[str]) -> None:
    together = CHUNKERS[name].chunk(texts)
    for text, passage in zip(texts, together, strict=True):
        (alone,) = CHUNKERS[name].chunk([text])
        assert np.array_equal(passage.token_ids, alone.token_ids)
        assert np.array_equal(passage.offsets, alone.offsets)


def test_words_that_a_vocabulary_does_not_have_are_no_control_tokens() -> None:
    (passage,) = CHUNKERS["unigram"].chunk(["a🙂a"])
    assert TOKENIZERS["unigram"].unk_token_id in passage.token_ids


def test_a_space_is_put_where_the_tokenizer_puts_one() -> None:
    """Before a text, and with Llama's after a control token; not where a forgery was cut."""
    mask = np.array([True] * 3 + [False] * 7 + [True])
    text = "<s><|end|>a"
    first = GuardedTokenizer(TOKENIZERS["unigram_first"], finds_control=True).encode(text, mask)
    tokens = TOKENIZERS["unigram_first"].convert_ids_to_tokens(first.ids)
    assert tokens == ["▁", "<", "s", ">", "<|end|>", "a"]
    always = GuardedTokenizer(TOKENIZERS["llama"], finds_control=True).encode(text, mask)
    tokens = TOKENIZERS["llama"].convert_ids_to_tokens(always.ids)
    assert tokens == ["▁", "<", "s", ">", "<|end|>", "▁a"]
    assert first.offsets[-1] == always.offsets[-1] == (10, 11)
