"""The messages of a prompt that asks one question over passages."""

from __future__ import annotations

from collections.abc import Sequence

from refrag_components.prompts.parts import Message, PassagePart, TextPart

__all__ = ["messages"]

# One short instruction for every question; without a context it does not mention one.
_WITH_CONTEXT = "Use the following context to answer the user's question. Be brief.\n\n"
_WITHOUT_CONTEXT = "Answer the user's question. Be brief."


def messages(question: str, passages: Sequence[str]) -> list[Message]:
    """The prompt of a question: instruction and passages, then the question."""
    if not passages:
        system: tuple[TextPart | PassagePart, ...] = (TextPart(_WITHOUT_CONTEXT),)
    else:
        parts: list[TextPart | PassagePart] = [TextPart(_WITH_CONTEXT)]
        for i, passage in enumerate(passages):
            parts += [TextPart("\n\n")] if i else []
            parts.append(PassagePart(passage))
        system = tuple(parts)
    return [Message("system", system), Message("user", (TextPart(question),))]
