from __future__ import annotations

import numpy as np
import pytest

from refrag_components.evaluation.answers.clusters import best_of_clusters

# Two passages that say the same, one that says something else, and one about nothing of the kind.
PASSAGES = np.array([[0.9, 0.44, 0.0], [0.9, 0.43, 0.06], [0.8, 0.0, 0.6], [0.0, 1.0, 0.0]])
QUESTION = np.array([1.0, 0.0, 0.0])


def test_clusters_give_their_best_in_turn(capfd: pytest.CaptureFixture[str]) -> None:
    found = best_of_clusters(QUESTION, PASSAGES, 9, 3)
    assert found[:1] == [0]
    assert sorted(found[:3]) == [0, 2, 3]  # of the two that say the same only the better one
    assert found[3:] == [1]
    assert best_of_clusters(QUESTION, PASSAGES, 2, 3) == found[:2]
    assert capfd.readouterr() == ("", "")


def test_one_cluster_or_one_for_each_is_the_order_of_similarity() -> None:
    for clusters in (1, len(PASSAGES), 99):
        assert best_of_clusters(QUESTION, PASSAGES, 9, clusters) == [0, 1, 2, 3]
    assert best_of_clusters(QUESTION, PASSAGES[:0], 9, 3) == []


def test_clusters_are_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    passages = rng.normal(size=(60, 3)).astype(np.float32)
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    first = best_of_clusters(QUESTION, passages, 60, 7)
    assert sorted(first) == list(range(60))
    assert best_of_clusters(QUESTION, passages, 60, 7) == first


def test_no_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="one cluster or more"):
        best_of_clusters(QUESTION, PASSAGES, 2, 0)
