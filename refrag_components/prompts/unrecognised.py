"""Which passages of a request are found in its prompt, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from refrag_components.prompts.matching import PassageFinder, PlainText

__all__ = ["Sighting", "sightings", "tell_sightings", "why_unrecognised"]

_ENOUGH = 32  # characters that do not occur by accident
_SHOWN = 60  # characters of a passage

_BETWEEN = "words are there, with other characters between them (marks before lines?)"
_ABSENT = "text is not there, so it was rewritten or left out"


class Sighting(NamedTuple):
    """What a prompt shows of a passage.

    Attributes:
        passage: The passage.
        flaw: Why it is not recognised, as what follows "it is changed: "; "" if it is.
        changed: Whether something of it is in the prompt, but not as it was retrieved.
    """

    passage: str
    flaw: str
    changed: bool = False


def sightings(passages: Iterable[str], prompt: str) -> list[Sighting]:
    """What a prompt shows of each different passage that was retrieved for it.

    Args:
        passages: What was retrieved.
        prompt: All texts of the prompt.
    """
    text = PlainText(prompt).form
    words = _words(text)
    return [_sighting(passage, text, words) for passage in dict.fromkeys(passages)]


def tell_sightings(found: Sequence[Sighting]) -> str:
    """A line for all passages, and one for each that is not recognised."""
    if not found:
        return (
            "no passages were retrieved by a retriever of this library in this run; wrap yours "
            "(RefragRetriever, RefragNodePostprocessor), or pass the passages as documents="
        )
    lost = [sighting for sighting in found if sighting.flaw]
    changed = sum(sighting.changed for sighting in lost)
    counts = f"{len(found) - len(lost)} of {len(found)} passages recognised"
    if changed:
        counts += f", {changed} changed by what formats them"
    lines = [f"  {' '.join(each.passage.split())[:_SHOWN]} ...: {each.flaw}" for each in lost]
    return "\n".join([counts, *lines])


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
        cause = f"their {_BETWEEN}"
    elif any(form[:_ENOUGH] in text for form in forms):
        cause = "they begin there and are then cut off or changed"
    elif any(form[-_ENOUGH:] in text for form in forms):
        cause = "only their ends are there"
    else:
        cause = f"their {_ABSENT}"
    return (
        f"of {len(forms)} passages that were retrieved in this run none is recognised in the "
        f"prompt: {cause}. All of it was read as tokens; format the passages as they are, or pass "
        "them with the call as documents="
    )


def _sighting(passage: str, text: str, words: str) -> Sighting:
    forms = PassageFinder([passage]).forms
    if not forms:
        return Sighting(passage, f"it has fewer than {_ENOUGH} characters and is read as tokens")
    (form,) = forms
    if form in text:
        return Sighting(passage, "")
    if _words(form) in words:
        return Sighting(passage, f"its {_BETWEEN}", changed=True)
    if form[:_ENOUGH] in text:
        return Sighting(passage, "it begins there and is then cut off or changed", changed=True)
    if form[-_ENOUGH:] in text:
        return Sighting(passage, "only its end is there", changed=True)
    return Sighting(passage, f"its {_ABSENT}")


def _words(text: str) -> str:
    return "".join(filter(str.isalnum, text))
