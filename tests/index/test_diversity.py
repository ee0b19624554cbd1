from __future__ import annotations

import numpy as np
import pytest

from refrag_components.index.diversity import most_diverse

# Two passages that say the same, one that says something else, and one about nothing of the kind.
PASSAGES = np.array([[0.9, 0.44, 0.0], [0.9, 0.43, 0.06], [0.8, 0.0, 0.6], [0.0, 1.0, 0.0]])
QUESTION = np.array([1.0, 0.0, 0.0])


def test_without_diversity_the_most_similar_come_first() -> None:
    assert most_diverse(QUESTION, PASSAGES, 3, 0.0) == [0, 1, 2]


def test_a_passage_like_one_before_it_waits() -> None:
    assert most_diverse(QUESTION, PASSAGES, 2, 0.4) == [0, 2]
    assert sorted(most_diverse(QUESTION, PASSAGES, 9, 0.4)) == [0, 1, 2, 3]


def test_a_diversity_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        most_diverse(QUESTION, PASSAGES, 2, 1.5)
