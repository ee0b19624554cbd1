"""An explanation on a terminal: light, dark, with 16 colours or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from refrag_components.cli.common import shown

if TYPE_CHECKING:
    from refrag_components.generation.explained_passage import ExplainedPassage, Fate
    from refrag_components.generation.explanation import Explanation

__all__ = ["explained"]

# No letters are coloured, since whatever colour they had would be hard to read on some background.
# Neighbouring chunk embeddings are told apart by every second one's being underlined.
_STYLES: dict[Fate, tuple[str, str]] = {
    "expanded": ("black on green", "black on green"),
    "compressed": ("", "underline"),
    "dropped": ("strike", "strike"),
}
_BRACKETS: dict[Fate, tuple[str, str]] = {
    "expanded": ("«", "»"),
    "compressed": ("[", "]"),
    "dropped": ("~", "~"),
}
_LABEL = "bold"


def explained(view: Explanation, console: Console) -> Text:
    """The prompt, each chunk in the style that shows what became of it; brackets without colours.

    What was dropped has its marks in any case: not every terminal can strike text out.
    """
    plain = console.color_system is None or console.no_color
    text = Text()
    _add(text, "read as text", "expanded", 0, plain)
    text.append("  ")
    _add(text, "read as a chunk embedding, one position", "compressed", 1, plain)
    text.append("  ")
    _add(text, "not read", "dropped", 0, plain)
    text.append("\n\n")
    number = 0
    for part in view.parts:
        if isinstance(part, str):
            text.append(shown(part))
            continue
        number += 1
        text.append(_label(number, part), _LABEL)
        text.append("\n")
        for place, piece in enumerate(part.pieces):
            _add(text, piece.text, piece.fate, place, plain)
    return text.append("\n")


def _add(text: Text, piece: str, fate: Fate, place: int, plain: bool) -> None:
    before, after = _BRACKETS[fate] if plain or fate == "dropped" else ("", "")
    style = "" if plain else _STYLES[fate][place % 2]
    text.append(f"{before}{shown(piece)}{after}", style)


def _label(number: int, passage: ExplainedPassage) -> str:
    facts = [f"{number}. {shown(passage.source) or 'passage'}"]
    if passage.score is not None:
        facts.append(f"score {passage.score:.2f}")
    rung = f", {passage.rung} per embedding" if passage.rung else ""
    return ", ".join([*facts, f"{passage.tokens} tokens in {passage.positions} positions{rung}"])
