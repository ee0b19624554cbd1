from __future__ import annotations

import numpy as np

from refrag_components.prompts.carried import carried_stores
from refrag_components.vectors import ChunkVectors, passage_key

VECTORS = ChunkVectors(np.ones((2, 8), np.float32), np.arange(6), 4, "0123456789abcdef")
KEY = passage_key("A passage.", VECTORS.fingerprint)


def test_vectors_go_with_their_text() -> None:
    stores = carried_stores([(" A passage.\n", KEY, VECTORS), ("Another.", None, None)])
    assert list(stores) == [KEY]
    assert stores[KEY].mget([KEY]) == [VECTORS]


def test_each_model_finds_its_own() -> None:
    others = ChunkVectors(np.ones((2, 4), np.float32), np.arange(6), 4, "another")
    theirs = passage_key("A passage.", "another")
    stores = carried_stores([("A passage.", KEY, VECTORS), ("A passage.", theirs, others)])
    assert stores[KEY].mget([KEY, theirs]) == [VECTORS, None]
    assert stores[theirs].mget([KEY, theirs]) == [None, others]


def test_vectors_under_another_key_are_dropped() -> None:
    others = [passage_key("A passage.", "another model"), None, 7, ""]
    assert carried_stores(("A passage.", key, VECTORS) for key in others) == {}


def test_vectors_do_not_follow_a_text_that_was_changed() -> None:
    forged = passage_key("Mine.", VECTORS.fingerprint)
    assert carried_stores([("Mine.", KEY, VECTORS)]) == {}
    # A key that fits the text vouches for the vectors: who forges both has harmed only himself.
    assert list(carried_stores([("Mine.", forged, VECTORS)])) == [forged]
