"""Passages and questions with their vectors, for the benchmark of records."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from benchmarks.search_vectors import ENCODER
from refrag_components.modeling.search_encoder import SearchEncoder
from refrag_components.records import Record
from refrag_components.vectors import ChunkVectors
from refrag_components.weights.lookup import base_folder

__all__ = ["Asked", "load"]

CHUNK_SIZE, WIDTH = 16, 384
_SETS = ("squad", "sqshift_wiki")


class Asked(NamedTuple):
    """A question, and the passage that answers it.

    Attributes:
        vector: The question's search vector.
        token_vectors: Those of its tokens.
        gold: The passage.
    """

    vector: np.ndarray
    token_vectors: np.ndarray
    gold: str


def load(
    data: Path, passages: int, questions: int, cache: Path | None
) -> tuple[list[Record], list[Asked]]:
    """Reads texts and encodes them, unless a cache holds their vectors.

    Chunk vectors are random, since nothing here depends on their values; there is one per 16 tokens
    of the search encoder, as a decoder's would be about.

    Args:
        data: Folder of the data pack.
        passages: Passages to take, at least those that the questions need.
        questions: Questions to take.
        cache: File that keeps the vectors; None keeps none.
    """
    asked = [
        row
        for name in _SETS
        for row in _rows(data / "qa" / f"{name}.valid.jsonl.zst")
        if row["gold"] and (row.get("meta") or {}).get("standalone") is not False
    ]
    random.Random(0).shuffle(asked)
    asked = asked[:questions]
    golds = [_gold(row) for row in asked]
    pool = (
        row["text"]
        for row in _rows(data / "qa" / "passages.jsonl.zst")
        if set(_SETS) & set(row["datasets"])
    )
    texts = list(dict.fromkeys([*golds, *pool]))[:passages]
    vectors, tokens = _vectors([*texts, *(row["question"] for row in asked)], cache)
    records = [
        Record(text, vector, _chunks(i, len(own)), own, {"number": i})
        for i, (text, vector, own) in enumerate(zip(texts, vectors, tokens, strict=False))
    ]
    start = len(texts)
    return records, [
        Asked(vectors[start + i], tokens[start + i], gold) for i, gold in enumerate(golds)
    ]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file)
        for line in io.TextIOWrapper(reader, encoding="utf-8"):
            yield json.loads(line)


def _gold(row: dict[str, Any]) -> str:
    return next(each["text"] for each in row["passages"] if each["id"] == row["gold"][0])


def _chunks(seed: int, n_tokens: int) -> ChunkVectors:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((-(-n_tokens // CHUNK_SIZE), WIDTH)).astype(np.float16)
    return ChunkVectors(vectors, generator.integers(0, 49_152, n_tokens), CHUNK_SIZE, "0123456789")


def _vectors(texts: list[str], cache: Path | None) -> tuple[np.ndarray, list[np.ndarray]]:
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            if kept["texts"].tolist() == texts:
                return kept["vectors"], np.split(kept["tokens"], np.cumsum(kept["counts"])[:-1])
    vectors, tokens = SearchEncoder(base_folder(ENCODER)).embed_tokens(texts, device="cpu")
    if cache is not None:
        np.savez(
            cache,
            texts=np.array(texts),
            vectors=vectors,
            tokens=np.concatenate(tokens).astype(np.float16),
            counts=np.array([len(each) for each in tokens]),
        )
    return vectors, tokens
