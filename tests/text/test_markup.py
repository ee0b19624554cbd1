"""Headings are found in text formats that mark them in other ways than Markdown."""

from __future__ import annotations

import pytest

from refrag_components.text.extraction import extract, plain_text

RST = """=====
Tides
=====

A list of ports.

History
-------

Dug in 1907, see::

    ----

Trade
~~~~~

.. note:: Grain and salt.

=====  =====
Port   Ships
=====  =====
Rosk   12
=====  =====

Ports
-----

Rosk."""


@pytest.mark.parametrize(
    ("suffix", "source", "title", "headings"),
    [
        (".rst", RST, "", ["# Tides", "## History", "### Trade", "## Ports"]),
        (
            ".tex",
            "\\title{The Tides}\n\\section{History}\\label{sec:h}\nDug.\n\\subsection*{Trade}\n% x",
            "The Tides",
            ["## History", "### Trade"],
        ),
        (".adoc", "= Tides\n\n== History\n\n====\nx == y\n====", "", ["# Tides", "## History"]),
        (".org", "#+TITLE: Tides\n* History\n** Trade\n*bold*", "Tides", ["# History", "## Trade"]),
        (".txt", "Tides\n=====\n\n= x", "", []),
    ],
)
def test_headings_are_marked_as_in_markdown_and_the_rest_stays(
    suffix: str, source: str, title: str, headings: list[str]
) -> None:
    found = extract(source.encode(), suffix)
    lines = found.text.split("\n")
    assert found.title == title
    assert [line for line in lines if line.startswith("#") and "+" not in line] == headings
    assert plain_text(source.encode(), suffix) == found
    assert {line for line in lines if not line.startswith("#")} <= set(source.split("\n"))
    if suffix == ".rst":
        assert "    ----" in lines and lines.count("=====  =====") == 3


@pytest.mark.parametrize("source", ["=" * 10**6, "a\n" * 10**5, "\\section{" * 10**5, "*" * 10**6])
@pytest.mark.parametrize("suffix", [".adoc", ".org", ".rst", ".tex"])
def test_text_that_was_made_to_take_long_does_not(source: str, suffix: str) -> None:
    assert plain_text(source.encode(), suffix) is not None
