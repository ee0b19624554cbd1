"""The longest prompt that LlamaIndex may build for a decoder that reads most of it compressed."""

from __future__ import annotations

from refrag_components.policies import Budget, FractionBudget

__all__ = ["effective_window"]

_UNCOMPRESSED_SHARE = 4  # part of the window that template, question and history may need


def effective_window(window: int, chunk_size: int, budget: Budget, max_tokens: int) -> int:
    """The longest prompt that LlamaIndex may build, in tokens before compression.

    A quarter of the decoder's window is reserved for text that is never compressed, and up to a
    quarter for the answer; passages fill the rest, at the compression rate that the budget asks
    for.

    Args:
        window: The decoder's window in positions.
        chunk_size: Tokens per chunk.
        budget: The budget that the policy works with.
        max_tokens: Maximum length of the answer.

    Returns:
        Tokens, never fewer than ``window``.
    """
    share = window // _UNCOMPRESSED_SHARE
    reserved = share + min(max_tokens, share)
    room = window - reserved
    if isinstance(budget, FractionBudget):
        expanded = budget.fraction
        context = room * chunk_size / (1 - expanded + chunk_size * expanded)
    else:
        # Passages take at least one position per chunk, and more chunks than positions are an
        # error. The last chunk of a passage is short, so not all of that can be filled.
        context = 0.75 * chunk_size * min(budget.number, room)
    return max(window, reserved + int(context))
