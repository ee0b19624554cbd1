from __future__ import annotations

import io

import pytest
from rich.console import Console

from refrag_components.cli.explained import explained
from refrag_components.generation.explained_passage import ExplainedPassage, Piece
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.report import Report

REPORT = Report(
    context_tokens=4, context_positions=4, positions=6, rate=1.0, chunks=4, expanded=1,
    compressed=2, dropped=1, cache_hits=1, cache_misses=0, fallbacks=0, policy="all",
    budget=1.0, rest="compress",
)  # fmt: skip
PIECES = (
    Piece("one", "compressed", 1),
    Piece("two", "compressed", 1),
    Piece("three", "expanded", 1),
    Piece("four", "dropped", 0),
)
VIEW = Explanation(
    ("Context: ", ExplainedPassage(PIECES, 9, 4, source="a.md", score=0.5), "Why?"), REPORT
)


def written(**settings: object) -> str:
    console = Console(file=io.StringIO(), width=80, **settings)  # type: ignore[arg-type]
    console.print(explained(VIEW, console), soft_wrap=True)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.partition("\n\n")[2]


@pytest.mark.parametrize("colours", ["standard", "256", "truecolor"])
def test_letters_have_no_colour_of_their_own(colours: str) -> None:
    """Black on green is the same everywhere, and nothing else has a colour or is dim."""
    text = written(force_terminal=True, color_system=colours)
    assert text == (
        "Context: \x1b[1m1. a.md, score 0.50, 9 tokens in 3 positions, 4 per embedding\x1b[0m\n"
        "one\x1b[4mtwo\x1b[0m\x1b[30;42mthree\x1b[0m\x1b[9m~four~\x1b[0mWhy?\n\n"
    )


@pytest.mark.parametrize("settings", [{}, {"force_terminal": True, "no_color": True}])
def test_brackets_where_there_is_no_colour(settings: dict[str, object]) -> None:
    assert "[one][two]«three»~four~Why?" in written(**settings)


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "«three»" in written(force_terminal=True)
