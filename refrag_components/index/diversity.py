"""Passages that answer a question and differ from each other, out of one collection or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from refrag_components.exceptions import InvalidVectorsError

__all__ = ["MarginalRelevance", "merge_collections", "merge_diverse", "most_diverse"]


class MarginalRelevance:
    """Picks candidates by maximal marginal relevance, one after the other.

    The next is the one with the largest (1 - diversity) x similarity to the question - diversity x
    similarity to the most similar candidate that was picked before.

    Args:
        question: Search vector of the question, shape (d,), length 1.
        passages: Search vectors of the candidates, shape (n, d), length 1.
        diversity: From 0, similarity alone, to 1, difference alone.

    Raises:
        ValueError: If the diversity is outside its range.
        InvalidVectorsError: If the vectors differ in width.
    """

    def __init__(self, question: np.ndarray, passages: np.ndarray, diversity: float) -> None:
        _check(diversity)
        if passages.shape[1:] != question.shape:
            msg = f"search vectors differ in width: {question.shape} and {passages.shape[1:]}"
            raise InvalidVectorsError(msg)
        self._passages, self._diversity = passages, diversity
        self._relevance = passages @ question
        self._nearest: np.ndarray | None = None  # similarity to the nearest that was picked

    def pick(self, among: Sequence[int]) -> int:
        """The best of some candidates; from now on the others are compared with it."""
        scores = (1 - self._diversity) * self._relevance
        if self._nearest is not None:
            scores = scores - self._diversity * self._nearest
        best = int(among[int(np.argmax(scores[list(among)]))])
        similarity = self._passages @ self._passages[best]
        known = self._nearest
        self._nearest = similarity if known is None else np.maximum(known, similarity)
        return best


def most_diverse(
    question: np.ndarray, passages: np.ndarray, count: int, diversity: float
) -> list[int]:
    """Picks passages by maximal marginal relevance, see ``MarginalRelevance``.

    Args:
        question: Search vector of the question, shape (d,), length 1.
        passages: Search vectors of the candidates, shape (n, d), length 1.
        count: Passages to pick; all if there are fewer.
        diversity: From 0, similarity alone, to 1, difference alone.

    Returns:
        Indices of candidates in the order in which they were picked.
    """
    relevance = MarginalRelevance(question, passages, diversity)
    left = list(range(len(passages)))
    picked: list[int] = []
    while left and len(picked) < count:
        picked.append(relevance.pick(left))
        left.remove(picked[-1])
    return picked


def merge_collections(
    found: Sequence[Sequence[str]],
    count: int,
    shares: Sequence[float],
    relevance: MarginalRelevance | None = None,
) -> list[tuple[int, int]]:
    """Merges what several collections found, so that each has its share and no text comes twice.

    The next place goes to the collection that is furthest behind its share; one that has nothing
    left leaves its places to the others.

    Args:
        found: Texts that each collection found, best first.
        count: Most texts to take.
        shares: Share of each collection, above 0.
        relevance: Picks among the texts of a collection, whose indices are those of all texts, one
            collection after the other; None takes them in order.

    Returns:
        Collection and index in it of each text, in order.

    Raises:
        ValueError: If there is not one share above 0 for each collection.
    """
    if len(shares) != len(found) or not all(share > 0 for share in shares):
        msg = f"give each of the {len(found)} collections a share above 0, got {list(shares)}"
        raise ValueError(msg)
    starts = np.cumsum([0, *map(len, found)]).tolist()
    left = [list(range(len(texts))) for texts in found]
    taken = [0] * len(found)
    seen: set[str] = set()
    merged: list[tuple[int, int]] = []
    total = sum(shares)
    while len(merged) < count and any(left):
        behind = {
            i: shares[i] / total * (len(merged) + 1) - taken[i]
            for i, numbers in enumerate(left)
            if numbers
        }
        i = max(behind, key=lambda number: behind[number])
        place = left[i][0]
        if relevance is not None:
            place = relevance.pick([starts[i] + j for j in left[i]]) - starts[i]
        merged.append((i, place))
        taken[i] += 1
        seen.add(found[i][place].strip())
        left = [
            [j for j in numbers if texts[j].strip() not in seen]
            for numbers, texts in zip(left, found, strict=True)
        ]
    return merged


def merge_diverse(
    query: str,
    found: Sequence[Sequence[str]],
    count: int,
    *,
    shares: Sequence[float] | None,
    diversity: float,
    search_vectors: Callable[[Sequence[str]], np.ndarray],
) -> list[tuple[int, int]]:
    """Merges what several collections found, see ``merge_collections``, and lets texts differ.

    Args:
        query: What was searched for.
        found: Texts that each collection found, best first.
        count: Most texts to take.
        shares: Share of each collection, above 0; all alike if None.
        diversity: As for ``MarginalRelevance``; at 0 the order of the collections stays.
        search_vectors: Search vectors of texts, shape (n, d), each of length 1; called only if
            there is a diversity.

    Returns:
        Collection and index in it of each text, in order.

    Raises:
        ValueError: If there is not one share above 0 for each collection, or the diversity is
            outside its range.
    """
    _check(diversity)
    relevance = None
    if diversity and any(found):
        every = search_vectors([text for own in found for text in own])
        relevance = MarginalRelevance(search_vectors([query])[0], every, diversity)
    even = [1.0] * len(found)
    return merge_collections(found, count, even if shares is None else shares, relevance)


def _check(diversity: float) -> None:
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must be from 0 to 1, got {diversity!r}")
