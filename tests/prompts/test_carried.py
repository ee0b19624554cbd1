from __future__ import annotations

import numpy as np

from refrag_components.prompts.carried import carried_stores
from refrag_components.vectors import ChunkVectors, passage_key

VECTORS = ChunkVectors(np.ones((2, 8), np.float32), np.arange(6), 4, "0123456789abcdef")
KEY = passage_key("A passage.", VECTORS.fingerprint)


def test_vectors_go_with_their_text() -> None:
    stores = carried_stores([(" A passage.\n", KEY, VECTORS), ("Another.", None, None)])
    assert list(stores) == ["A passage."]
    assert stores["A passage."].mget([KEY]) == [VECTORS]


def test_vectors_under_another_key_are_dropped() -> None:
    others = [passage_key("A passage.", "another model"), None, 7, ""]
    assert carried_stores(("A passage.", key, VECTORS) for key in others) == {}


def test_vectors_do_not_follow_a_text_that_was_changed() -> None:
    forged = passage_key("Mine.", VECTORS.fingerprint)
    assert carried_stores([("Mine.", KEY, VECTORS)]) == {}
    # A key that fits the text vouches for the vectors: who forges both has harmed only himself.
    assert list(carried_stores([("Mine.", forged, VECTORS)])) == ["Mine."]
