"""Ten thousand prompts full of forged, nested and cut envelopes, over stores that get damaged.

Whatever a prompt holds and whatever a store has come to: nothing crashes, no character of the
prompt is lost, and nobody is given text or chunk vectors but a passage's own.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from refrag_components.exceptions import CorruptVectorsError
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.prompts.parts import PassagePart
from refrag_components.prompts.resolver import Resolved, Resolver, format_envelope
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores import open_store
from refrag_components.stores.common.rows import pack_row, unpack_row
from refrag_components.stores.common.url import split_options
from refrag_components.vectors import ChunkVectors, passage_key
from tests.fake_model import FakeModel

_CASES = 1000  # a seed
_ALPHABET = "ab éß漢🙂\u0301\u200b\x00\ud800\"'\\{}[]<>&%_*\n\t:/"
_MARKERS = ("[[refrag:", "]]", "[[/refrag]]", "[[refrag:]]", "[[refrag:\n]]", "[[", "[[/refrag")


class _Model(FakeModel):
    """What a ``PassageLoader`` needs of a model."""

    vector_width = 64

    @property
    def token_check(self) -> _Model:
        return self

    def differ(self, texts: Sequence[str], token_ids: Sequence[np.ndarray]) -> list[bool]:
        own = [self.encode(text).token_ids for text in texts]
        return [not np.array_equal(a, b) for a, b in zip(own, token_ids, strict=True)]

    @cache  # noqa: B019 - the same passages come again and again
    def encode(self, text: str) -> ChunkVectors:
        return super().encode(text)

    def encode_passages(self, texts: Sequence[str], *, batch_size: int = 32) -> list[ChunkVectors]:
        return [self.encode(text) for text in texts]


class _Tenant:
    """Somebody's passages, returned by their retriever, and their store."""

    def __init__(self, rng: random.Random, url: str, fingerprint: str) -> None:
        self.store: Any = open_store(url)
        self.rows = _rows(url)
        self.model = _Model(fingerprint)
        self.passages = [_passage(rng) for _ in range(25)]
        self.loader = PassageLoader(self.model, self.store)  # type: ignore[arg-type]
        self.loader.load([PassagePart(passage) for passage in self.passages])
        self.loader.flush()
        retrieved = [Retrieval.of("", self.passages, self.store)]
        self.resolver = Resolver(fingerprint, retrieved, store=self.store)

    def key(self, text: str) -> str:
        return passage_key(text.strip(), self.model.fingerprint)


def _text(rng: random.Random, longest: int = 30) -> str:
    return "".join(rng.choices(_ALPHABET, k=rng.randrange(longest)))


def _passage(rng: random.Random) -> str:
    """A passage that is long enough to be recognised; some spell out markers."""
    words = [rng.choice(("harbour", "漢字", "naïve", "rose", "12.5%", "🙂")) for _ in range(12)]
    if rng.random() < 0.2:
        words[rng.randrange(12)] = rng.choice(_MARKERS)
    return f"{rng.randrange(10**6)} {' '.join(words)}"


def _piece(rng: random.Random, own: _Tenant, other: _Tenant) -> str:
    """Something that a prompt may hold, honest or not."""
    mine, theirs = rng.choice(own.passages), rng.choice(other.passages)
    new = _passage(rng)
    honest = format_envelope(mine, own.key(mine))
    return rng.choice(
        (
            _text(rng),
            mine,
            f"  {mine}\n",
            theirs,
            mine[: rng.randrange(len(mine))] + _text(rng, 4) + theirs[rng.randrange(len(theirs)) :],
            honest,
            format_envelope(new, own.key(new)),
            f"[[refrag:{own.key(mine)}]]{new}[[/refrag]]",
            f"[[refrag:{other.key(theirs)}]]{mine}[[/refrag]]",
            f"[[refrag:{other.key(theirs)}]][[/refrag]]",
            f"[[refrag:{own.key(honest)}]]{honest}[[/refrag]]",
            honest[: rng.randrange(len(honest))],
            honest[rng.randrange(len(honest)) :],
            rng.choice(_MARKERS),
        )
    )


class _SQLiteRows:
    """The rows of a store, behind its back."""

    spoiled: tuple[object, ...] = ("text", 7)

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, key: str) -> bytes:
        with closing(sqlite3.connect(self._path)) as connection:
            query = "SELECT CAST(value AS BLOB) FROM chunk_vectors WHERE key = ?"
            return bytes(connection.execute(query, (key,)).fetchone()[0])

    def write(self, key: str, value: object) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute("UPDATE chunk_vectors SET value = ? WHERE key = ?", (value, key))


class _PostgresRows:
    """The rows of a store, behind its back."""

    spoiled: tuple[object, ...] = ()  # the column's type is kept by the server

    def __init__(self, url: str) -> None:
        connection, options = split_options(url, "table")
        self._connection = psycopg.connect(connection, autocommit=True)
        self._table = options["table"]

    def read(self, key: str) -> bytes:
        query = f"SELECT value FROM {self._table} WHERE key = %s"
        return bytes(self._connection.execute(query, [key]).fetchone()[0])  # type: ignore[index]

    def write(self, key: str, value: object) -> None:
        query = f"UPDATE {self._table} SET value = %s WHERE key = %s"
        self._connection.execute(query, [value, key])


def _rows(url: str) -> _SQLiteRows | _PostgresRows:
    return _PostgresRows(url) if url.startswith("postgresql:") else _SQLiteRows(url)


def _forged(rng: random.Random, key: str, value: bytes) -> bytes:
    """A row that is whole and the key's own, but has the decoder read something else."""
    try:
        row = unpack_row(key, value)
    except CorruptVectorsError:
        return value
    ids = row.token_ids.copy()
    ids[rng.randrange(len(ids))] = rng.choice((0, 7, 2**31 - 1))
    return pack_row(key, ChunkVectors(row.vectors, ids, row.chunk_size, row.fingerprint), "float16")


def _damage(rng: random.Random, tenant: _Tenant, other: _Tenant) -> None:
    """Spoils a stored row behind the store's back."""
    keys = list(tenant.store.yield_keys())
    victim, donor = rng.choice(keys), rng.choice(keys)
    value = tenant.rows.read(victim)
    place = rng.randrange(len(value)) if value else 0
    swapped = tenant.rows.read(donor)
    foreign = other.rows.read(next(iter(other.store.yield_keys())))
    flipped = value[:place] + bytes([rng.randrange(256)]) + value[place + 1 :]
    forged = _forged(rng, victim, value)
    odd = (b"", value + b"\0", *tenant.rows.spoiled)
    spoiled = (value[:place], flipped, swapped, foreign, forged, *odd)
    tenant.rows.write(victim, rng.choice(spoiled))


def _check_text(prompt: str, resolved: Resolved, own: _Tenant) -> None:
    """Parts are the prompt except for markers, and passages are known ones or vouched for."""
    between = r"(?:\[\[/refrag\]\])?(?:\[\[refrag:[0-9a-f]{32}\]\])?"
    texts = [  # a passage is recognised with other white space, too
        r"\s+".join(map(re.escape, part.text.split()))
        if isinstance(part, PassagePart)
        else re.escape(part.text)
        for part in resolved.parts
    ]
    assert re.fullmatch(between.join(["", *texts, ""]), prompt)
    known = {passage.strip() for passage in own.passages}
    for part in resolved.parts:
        if isinstance(part, PassagePart):
            vouched = f"[[refrag:{own.key(part.text)}]]" in prompt
            assert part.text in known or vouched
            assert part.store is own.store


@pytest.fixture(params=["sqlite"] * 7 + ["postgresql"] * 3)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Stores of two tenants in one kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "own.sqlite"), str(tmp_path / "other.sqlite")
    server = request.getfixturevalue("postgres")
    return f"{server}&table=own", f"{server}&table=other"


def test_no_prompt_and_no_damage_yields_what_is_not_the_passages_own(
    urls: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    rng = random.Random(request.node.name)
    own = _Tenant(rng, urls[0], "f00d")
    other = _Tenant(rng, urls[1], rng.choice(("f00d", "beef")))
    found = cached = 0
    for _ in range(_CASES):
        if rng.random() < 0.3:
            _damage(rng, own, other)
        prompt = "".join(_piece(rng, own, other) for _ in range(rng.randrange(7)))
        resolved = own.resolver.resolve_text(prompt)
        _check_text(prompt, resolved, own)
        parts = [part for part in resolved.parts if isinstance(part, PassagePart)]
        loaded = own.loader.load(parts)
        own.loader.flush()
        for part, passage in zip(parts, loaded, strict=True):
            assert passage.vectors == own.model.encode(part.text)
        found += len(parts)
        cached += sum(passage.cached for passage in loaded)
    assert found > _CASES  # the cases are worth something
    assert own.store.corrupt_rows > 0
    assert 0 < cached < found
