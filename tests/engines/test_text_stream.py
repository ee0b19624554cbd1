from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from refrag_components.engines.text_stream import TextStream
from refrag_components.text.tokenization import content_tokenizer
from tests.tiny import TEXT, tiny_decoder_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return content_tokenizer(tiny_decoder_tokenizer())


def _byte_fallback_tokenizer() -> Tokenizer:
    """As Llama 2: a leading space is part of a word, unknown characters become bytes."""
    words = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁a", "▁the", "b", "c", "é"]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _run(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()
) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stop)
    texts = []
    for token in ids:
        texts.append(stream.push(token))
        if stream.stopped:
            break
    return [*texts, stream.finish()], stream


@pytest.mark.parametrize(
    "text", [*TEXT, "naïve 北京 🙂👩‍👩‍👧 end", "🙂" * 9, "", "  two  spaces \n"]
)
def test_deltas_are_whole_characters_and_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    texts, _ = _run(tokenizer, _ids(tokenizer, text))
    assert "".join(texts) == text
    assert not any("\ufffd" in text_part for text_part in texts)


def test_text_is_returned_as_soon_as_it_is_certain(tokenizer: Tokenizer) -> None:
    ids = _ids(tokenizer, "ab🙂c")
    texts, _ = _run(tokenizer, ids)
    assert len(ids) == 7
    assert texts == ["a", "b", "", "", "", "🙂", "c", ""]


def test_a_character_that_is_never_completed_comes_at_the_end(tokenizer: Tokenizer) -> None:
    ids = _ids(tokenizer, "ab🙂")[:-1]
    texts, _ = _run(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids) == "ab\ufffd"
    assert "".join(texts[:-1]) == "ab"


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_join_to_what_the_tokenizer_decodes(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(120)]
    texts, _ = _run(tokenizer, ids)
    assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=True)


def test_leading_spaces_and_byte_fallback() -> None:
    tokenizer = _byte_fallback_tokenizer()
    vocabulary = tokenizer.get_vocab()
    words = ["▁the", "b", "▁a", "<0xE5>", "<0x8C>", "<0x97>", "c", "▁", "▁the", "é"]
    texts, _ = _run(tokenizer, [vocabulary[word] for word in words])
    assert texts == ["the", "b", " a", "", "", "北", "c", " ", " the", "é", ""]


def test_a_token_alone_is_as_inside_a_text() -> None:
    tokenizer = _byte_fallback_tokenizer()
    vocabulary = tokenizer.get_vocab()
    stream = TextStream(tokenizer, ())
    told = [stream.of_token(vocabulary[token]) for token in ("▁the", "b", "▁", "<0xE5>", "é")]
    assert told == [" the", "b", " ", "\ufffd", "é"]


def test_special_tokens_leave_no_trace(tokenizer: Tokenizer) -> None:
    special = tokenizer.token_to_id("<|im_start|>")
    ids = _ids(tokenizer, "ab")
    texts, _ = _run(tokenizer, [special, ids[0], special, *ids[1:]])
    assert "".join(texts) == "ab"


def test_special_tokens_may_be_kept(tokenizer: Tokenizer) -> None:
    special = tokenizer.token_to_id("<|im_start|>")
    stream = TextStream(tokenizer, (), skip_special_tokens=False)
    texts = [stream.push(token) for token in (*_ids(tokenizer, "a"), special, 0)]
    assert "".join([*texts, stream.finish()]) == "a<|im_start|><|endoftext|>"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("the river rose by two", ("river",), "the "),
        ("the river rose by two", ("rose", "river"), "the "),
        ("the river rose", ("the",), ""),
        ("the river rose", ("rose",), "the river "),
        ("ababac", ("abac",), "ab"),
        ("aab", ("ab",), "a"),
        ("x\n\ny", ("\n\n",), "x"),
        ("price 🙂 end", ("🙂",), "price "),
        ("one END", ("END OF",), None),
        ("one", ("zzz",), None),
        ("ab", ("abc", "b"), "a"),
    ],
)
def test_stop_strings_never_leak(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], expected: str | None
) -> None:
    texts, stream = _run(tokenizer, _ids(tokenizer, text), stop)
    assert "".join(texts) == (text if expected is None else expected)
    assert stream.stopped is (expected is not None)
    emitted = ""
    for text_part in texts[:-1]:
        emitted += text_part
        assert text.startswith(emitted)


@pytest.mark.parametrize("seed", range(30))
def test_stop_strings_at_random_positions_are_found(tokenizer: Tokenizer, seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab \n") for _ in range(60))
    stop = tuple("".join(rng.choice("ab \n") for _ in range(rng.randint(1, 6))) for _ in range(3))
    texts, _ = _run(tokenizer, _ids(tokenizer, text), stop)
    found = [at for at in map(text.find, stop) if at >= 0]
    # With several stop strings the one that completes first counts, so the text may be longer
    # than up to the leftmost, but it holds none of them.
    joined = "".join(texts)
    assert text.startswith(joined)
    assert not any(s in joined for s in stop)
    assert (joined == text) is (not found)
