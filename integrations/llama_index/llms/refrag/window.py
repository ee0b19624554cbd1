"""The longest prompt that LlamaIndex may build for a decoder that reads most of it compressed."""

from __future__ import annotations

from refrag_components.policies import Budget, FractionBudget, Rest

__all__ = ["effective_window"]

_UNCOMPRESSED_SHARE = 4  # part of the window that template, question and history may need


def effective_window(
    window: int, chunk_size: int, budget: Budget, rest: Rest, max_tokens: int
) -> int:
    """The longest prompt that LlamaIndex may build, in tokens before compression.

    A quarter of the decoder's window is reserved for text that is never compressed, and up to a
    quarter for the answer; passages fill the rest, at the compression rate that the budget asks
    for. Positions hold any number of passages, and so does a window from which the rest is
    dropped; a longer prompt than compression would hold is left to LlamaIndex to split.

    Args:
        window: The decoder's window in positions.
        chunk_size: Tokens per chunk.
        budget: The budget that the policy works with.
        rest: What becomes of chunks that do not expand.
        max_tokens: Maximum length of the answer.

    Returns:
        Tokens, never fewer than ``window``.
    """
    share = window // _UNCOMPRESSED_SHARE
    reserved = share + min(max_tokens, share)
    room = window - reserved
    if not isinstance(budget, FractionBudget):
        # Half as text, half as chunk embeddings on the finest rung: beyond that, passages are on
        # coarser rungs or dropped.
        context = (1 + chunk_size) / 2 * min(budget.positions, room)
    elif rest == "drop":
        context = room / max(budget.fraction, 1 / chunk_size)
    else:
        expanded = budget.fraction
        context = room * chunk_size / (1 - expanded + chunk_size * expanded)
    return max(window, reserved + int(context))
