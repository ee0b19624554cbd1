"""Text between passages some of which are dropped."""

from __future__ import annotations

from collections.abc import Sequence

from refrag_components.engines.layout import PassageSegment, Segment, TextSegment

__all__ = ["without_separators"]


def without_separators(segments: Sequence[Segment], texts: Sequence[str]) -> list[Segment]:
    """Empties what separates two passages, white space only, if one of them is dropped.

    A separator is left if something of the passage behind it is read, and of one before it. Words
    between passages are always left.

    Args:
        segments: The prompt's text and passages, in order.
        texts: The characters of each.

    Returns:
        As many segments; separators that are left out have no tokens.
    """
    kept: list[Segment] = []
    anything = False  # of a passage so far
    for i, segment in enumerate(segments):
        if isinstance(segment, PassageSegment):
            anything = anything or segment.n_positions > 0
            kept.append(segment)
            continue
        around = [*segments[max(i - 1, 0) : i], *segments[i + 1 : i + 2]]
        between = len(around) == 2 and all(isinstance(s, PassageSegment) for s in around)
        if not between or texts[i].strip():
            anything = False
            kept.append(segment)
        elif anything and around[1].n_positions:
            kept.append(segment)
        else:
            kept.append(TextSegment(segment.token_ids[:0]))
    return kept
