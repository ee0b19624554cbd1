"""Conversations, rows, URLs and numbers that make no sense: the library's own errors, or right.

``tests/fuzzing.py`` says how to try all cases.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from refrag_components.engines import SamplingParams
from refrag_components.engines.sampling import Sampler
from refrag_components.exceptions import CorruptVectorsError, RefragError, StoreError
from refrag_components.generation.choosing import Chunks, choose
from refrag_components.generation.settings import AnswerSettings
from refrag_components.policies import check_policy, parse_budget
from refrag_components.policies.budget import parse_rest
from refrag_components.prompts.parts import (
    ControlPart,
    Message,
    Part,
    PassagePart,
    TextPart,
    ToolCall,
)
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from refrag_components.stores import open_store
from refrag_components.stores.common.rows import pack_row, pack_text, unpack_row, unpack_text
from refrag_components.stores.common.url import local_path, split_options, without_password
from refrag_components.vectors import CODECS
from tests.fuzzing import cases
from tests.mutations import ODD, damaged
from tests.stores.contract import make
from tests.tiny import (
    BARE_TOOL_TEMPLATE,
    CHAT_TEMPLATE,
    TOOL_TEMPLATE,
    tiny_decoder_tokenizer,
)

_ALPHABET = "ab éß漢🙂\u0301\u200b\x00\ud800\"'\\{}[]<>&%_*\n\t:/|"
_FORGED = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "end|>", "{{ messages }}", "{%")
_STRICT = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + message['content'] | trim + '<|im_end|>' }}{% endfor %}"
)
_DOUBLES = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
_TEMPLATES = (
    *(None, CHAT_TEMPLATE, TOOL_TEMPLATE, BARE_TOOL_TEMPLATE, _STRICT),
    "{{ messages[0]['content'] }}",  # forgets the others
    "{{ messages[5]['content'][:3] }}",  # cuts
    "{% for m in messages %}{{ m.content | upper }}{% endfor %}",  # alters
    _DOUBLES,
    "{% for m in messages %}{{ m.nothing.there }}{% endfor %}",
    "{{ 1 / 0 }}",
    "{% for",
    "nothing",
)


# -- conversations --------------------------------------------------------------------------------


def _text(rng: random.Random) -> str:
    pieces = [rng.choice((rng.choice(_ALPHABET), rng.choice(_FORGED))) for _ in range(8)]
    return "".join(pieces[: rng.randrange(9)])


def _json_value(rng: random.Random) -> Any:
    return rng.choice((*ODD, *_FORGED, {"a": [_text(rng)]}, {_text(rng): _text(rng)}))


def _message(rng: random.Random) -> Message:
    parts: list[Part] = [
        rng.choice((TextPart, PassagePart))(_text(rng)) for _ in range(rng.randrange(4))
    ]
    role = rng.choice(("user", "assistant", "system", "tool", "", "developer", _text(rng)))
    calls = tuple(
        ToolCall(_text(rng), {_text(rng): _json_value(rng) for _ in range(rng.randrange(3))})
        for _ in range(rng.choice((0, 0, 0, 1, 2)))
    )
    return Message(role, tuple(parts), calls)


def test_conversations_are_laid_out_whole_or_refused() -> None:
    rng = random.Random("conversations")
    tokenizers = []
    for template in _TEMPLATES:
        tokenizers.append(tiny_decoder_tokenizer())
        tokenizers[-1].chat_template = template
    special = set(tokenizers[0].all_special_ids)
    laid_out = 0
    number = cases(300, 3000)
    for _ in range(number):
        tokenizer = rng.choice(tokenizers)
        messages = [_message(rng) for _ in range(rng.randrange(5))]
        tools = [_json_value(rng)] if rng.random() < 0.3 else []
        try:
            rendered = render(
                messages,
                tokenizer,
                tools=[tool for tool in tools if isinstance(tool, dict)],
                add_generation_prompt=rng.random() < 0.5,
            )
        except RefragError as error:
            assert str(error)
            continue
        passages = [
            part.text
            for message in messages
            for part in message.parts
            if isinstance(part, PassagePart) and part.text
        ]
        found = [part.text for part in rendered if isinstance(part, PassagePart) and part.text]
        if tokenizer.chat_template == _DOUBLES:
            found = list(dict.fromkeys(found))
            passages = list(dict.fromkeys(passages))
        assert found == passages, tokenizer.chat_template
        ids = PromptTokenizer(tokenizer).encode(
            [part for part in rendered if not isinstance(part, PassagePart)]
        )
        control = "".join(part.text for part in rendered if isinstance(part, ControlPart))
        most = sum(control.count(token) for token in tokenizer.all_special_tokens)
        assert sum(int(token) in special for token in ids) <= most
        laid_out += 1
    assert number // 4 < laid_out < number  # the cases are worth something


# -- rows -----------------------------------------------------------------------------------------


def test_damaged_rows_are_refused_or_right() -> None:
    rng = random.Random("rows")
    for codec in CODECS:
        for number in range(cases(60, 600)):
            key = f"key {number}"
            kept = unpack_row(key, pack_row(key, make(number), codec))
            damage = damaged(rng, pack_row(key, make(number), codec))
            try:
                assert unpack_row(key, damage) == kept
            except CorruptVectorsError as error:
                assert str(error)
            text = pack_text(key, make(number), codec)
            odd = rng.choice((*ODD, text[::-1], text[1:], text + "=", text.lower(), text.encode()))
            try:
                assert unpack_text(key, *rng.choice(([odd], [text, odd], [odd, text]))) == kept
            except CorruptVectorsError as error:
                assert str(error)


# -- URLs -----------------------------------------------------------------------------------------

_SCHEMES = ("sqlite", "memory", "lancedb", "qdrant", "postgresql", "milvus", "chroma", "weaviate")
_PIECES = (
    *("://", ":", "//", "/", "///", "?", "&", "=", "#", "@", "%", "%00", "%zz", "%2e%2e/", ";"),
    *("localhost", "[::1]", "[", "]", "user", "codec=int8", "codec=x", "table=t", "timeout=-1"),
    *("timeout=nan", "path", "\x00", "\ud800", "é", " ", "\n", "dbname=x", "..", "~", "x" * 300),
)


def _url(rng: random.Random, schemes: tuple[str, ...]) -> str:
    pieces = rng.choices(_PIECES, k=rng.randrange(6))
    return rng.choice(("", rng.choice(schemes), "x", "SQLITE")) + "".join(pieces)


def test_urls_are_read_or_refused_and_their_passwords_kept() -> None:
    rng = random.Random("URLs")
    readers: tuple[Callable[[str], Any], ...] = (
        without_password,
        lambda url: split_options(url, "codec", "timeout"),
        lambda url: local_path(url, "codec"),
    )
    for _ in range(cases(300, 3000)):
        url = _url(rng, _SCHEMES)
        for read in readers:
            try:
                read(url)
            except StoreError as error:
                assert str(error)
        secret = f"s3cr3t{rng.choice(_PIECES)}{rng.choice(('', 's3cr3t'))}"
        url = f"{rng.choice(_SCHEMES)}://u:{secret}@127.0.0.1{rng.choice(_PIECES)}"
        try:
            shown = without_password(url)
        except StoreError as error:
            shown = str(error)
        assert "s3cr3t" not in shown


def test_stores_of_odd_urls_open_or_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those alone that speak to no server."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random("stores")
    local = ("sqlite", "memory", "lancedb")
    for _ in range(cases(50, 500)):
        url = _url(rng, local)
        if re.match(r"/|\.\.|~|.*(/|%2e|\.\.|~)", url.partition("://")[2] or url):
            url = f"{rng.choice(local)}://{tmp_path}/{rng.randrange(5)}{rng.choice(_PIECES)}"
        try:
            open_store(url).close()
        except RefragError as error:
            assert str(error)


# -- numbers --------------------------------------------------------------------------------------


class _Hostile:
    """Neither printed nor compared nor counted."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def __float__(self) -> float:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


_NUMBERS: tuple[Any, ...] = (
    *(Decimal("0.5"), Decimal("sNaN"), Fraction(7, 2), 1j, _Hostile(), object, print, b"5"),
    *(np.array(0.5), np.array([1, 2]), np.float32("nan"), np.int64(-3), np.datetime64("2020")),
    *(torch.tensor(0.5), torch.tensor([1.0, 2.0]), {"a"}, range(3), iter([1]), "compress", "none"),
    *(1e-320, 5e-324, 1e300, 2**63, 2**64, 10**5000, math.pi, -math.inf),
)
_FIELDS = (
    *("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed"),
    "skip_special_tokens",
)


def _odd(rng: random.Random) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(ODD)
    if kind == 1:
        return rng.choice(_NUMBERS)
    if kind == 2:
        return rng.choice((rng.randrange(-5, 50), rng.uniform(-1, 2), 10.0 ** rng.randrange(-9, 9)))
    inner = rng.choice((*ODD, *_NUMBERS))
    return rng.choice(([inner], (inner, inner), {"a": inner}, _text(rng)))


class _Settings(AnswerSettings):
    model: str = "refrag-smollm2-135m"


@pytest.mark.filterwarnings("ignore:_Settings ignores")
def test_odd_numbers_are_refused_in_our_own_words() -> None:
    rng = random.Random("numbers")
    logits = torch.tensor([30.0, -30.0, 3.0, 1e3])
    chunks = Chunks(np.array([2, 1]), np.full(3, 4), (4,))
    taken = 0
    for _ in range(cases(500, 5000)):
        given = {name: _odd(rng) for name in rng.sample(_FIELDS, rng.randint(1, 3))}
        try:
            params = SamplingParams(**given)
        except RefragError as error:
            assert len(str(error)) < 1000
        else:
            assert Sampler(params, torch.arange(2))(logits).item() in range(4)
            taken += 1
        value = _odd(rng)
        for read in (parse_budget, parse_rest, check_policy):
            try:
                made = read(value)
            except RefragError as error:
                assert len(str(error)) < 1000
                continue
            if read is parse_budget:
                choice = choose(np.zeros(3), chunks, made, "compress", limit=12)
                assert 0 <= chunks.positions(choice) <= 12
        name = rng.choice(("budget", "policy", "rest", "store", *_FIELDS))
        with suppress(RefragError, ValidationError):
            _Settings(**{name: value})
    assert taken > 0
