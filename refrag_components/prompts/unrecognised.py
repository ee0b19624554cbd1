"""Why passages that a request has retrieved are not found in its prompt."""

from __future__ import annotations

from collections.abc import Sequence

from refrag_components.prompts.matching import PassageFinder, PlainText

__all__ = ["why_unrecognised"]

_ENOUGH = 32  # characters that do not occur by accident


def why_unrecognised(passages: Sequence[str], prompt: str) -> str | None:
    """Names the likely cause.

    Args:
        passages: What was retrieved; nothing of it is found in the prompt.
        prompt: All texts of the prompt.

    Returns:
        A sentence; None if all passages are too short to be looked for.
    """
    forms = PassageFinder(passages).forms
    if not forms:
        return None
    text = PlainText(prompt).form
    words = _words(text)
    if any(_words(form) in words for form in forms):
        cause = "their words are there, with other characters between them (marks before lines?)"
    elif any(form[:_ENOUGH] in text for form in forms):
        cause = "they begin there and are then cut off or changed"
    elif any(form[-_ENOUGH:] in text for form in forms):
        cause = "only their ends are there"
    else:
        cause = "their text is not there, so it was rewritten or left out"
    return (
        f"of {len(forms)} passages that were retrieved in this run none is recognised in the "
        f"prompt: {cause}. All of it was read as tokens; format the passages as they are, or pass "
        "them with the call as documents="
    )


def _words(text: str) -> str:
    return "".join(filter(str.isalnum, text))
