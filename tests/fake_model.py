"""A model without weights, whose vectors are hashes, and checks of the indexes that it makes."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from refrag_components.index import RefragIndex
from refrag_components.vectors import ChunkVectors, passage_key


class FakeModel:
    """Has what ``RefragIndex`` needs; a token is a word.

    Attributes:
        encoded: All passages given to ``encode_passages``, in order.
        batches: How many passages each call had.
    """

    def __init__(
        self, fingerprint: str = "f00d", chunk_size: int = 4, seconds: float = 0.0
    ) -> None:
        self.fingerprint = fingerprint
        self.config = SimpleNamespace(chunk_size=chunk_size)
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = SimpleNamespace(is_fast=True, backend_tokenizer=tokenizer)
        self.seconds = seconds
        self.encoded: list[str] = []
        self.batches: list[int] = []

    def encode_passages(self, texts: Sequence[str], *, batch_size: int) -> list[ChunkVectors]:
        self.encoded += texts
        self.batches.append(len(texts))
        time.sleep(self.seconds * len(texts))
        return [self.encode(text) for text in texts]

    def encode(self, text: str) -> ChunkVectors:
        """Chunk vectors of one passage; they survive float16."""
        words = text.split()
        k = self.config.chunk_size
        chunks = [" ".join(words[i : i + k]) for i in range(0, len(words), k)]
        vectors = np.stack([_hashed(chunk) for chunk in chunks]).astype(np.float16)
        ids = [int(np.abs(_hashed(word)).sum() * 1000) for word in words]
        return ChunkVectors(vectors, np.array(ids), k, self.fingerprint)

    def search_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """The more words two texts share, the closer they are; not normalised."""
        rows = [sum(map(_hashed, re.findall(r"\w+", t.lower())), np.zeros(64)) for t in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), -1)

    def search_vector(self, text: str) -> np.ndarray:
        return self.search_vectors([text])[0]


def _hashed(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(64)


def texts(index: RefragIndex) -> list[str]:
    """Every passage of an index, sorted."""
    connection = sqlite3.connect(index.folder / "store.sqlite")
    rows = connection.execute("SELECT text FROM passages").fetchall()
    connection.close()
    return sorted(text for (text,) in rows)


def check(index: RefragIndex, model: FakeModel) -> None:
    """Asserts that passages, chunk vectors and search of an index agree."""
    passages = texts(index)
    keys = {passage_key(text, model.fingerprint) for text in passages}
    assert set(index.store.yield_keys()) == keys
    for text in passages:
        key = passage_key(text, model.fingerprint)
        assert index.store.mget([key]) == [model.encode(text)]
    assert index.info().passages == len(passages)
    hits = index.search("the", k=len(passages) + 10)
    assert sorted(hit.text for hit in hits) == sorted(set(passages))
