"""Texts of similar length, which are read in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["group_by_length"]

# What a pass costs besides its tokens, in tokens: an H200 reads about so many in the time in which
# a pass through the layers is launched. It is an estimate for 135M parameters, see experiments/022;
# a larger model reads fewer in that time, so that its groups have more padding than they need.
_PASS = 8192
_FEWEST = 2  # texts per group: compiled layers are compiled again for a pass with one


def group_by_length(lengths: Sequence[int], unit: int) -> list[tuple[int, list[int]]]:
    """Parts texts into the groups that cost least, padding and passes counted.

    Args:
        lengths: Tokens of each text.
        unit: Texts are padded to multiples of it.

    Returns:
        Of each group, the length that its texts are padded to, and their places in ``lengths``;
        the shortest texts first, none for no text. Groups have two texts or more if there are two.
    """
    order = np.argsort(lengths, kind="stable")
    padded = np.maximum(-(-np.asarray(lengths, dtype=np.int64)[order] // unit), 1) * unit
    count = len(padded)
    # The least cost of the first texts, and where their last group begins then.
    least, begins = np.zeros(count + 1), np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        texts = np.arange(end, 0, -1)  # in the last group, by where it begins
        cost = least[:end] + texts * padded[end - 1] + _PASS
        if count >= _FEWEST:
            cost[texts < _FEWEST] = np.inf
        begins[end], least[end] = cost.argmin(), cost.min()
    groups: list[tuple[int, list[int]]] = []
    end = count
    while end:
        begin = int(begins[end])
        groups.append((int(padded[end - 1]), order[begin:end].tolist()))
        end = begin
    return groups[::-1]
