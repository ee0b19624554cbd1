"""Headings of text formats that have their own marks for them, as in Markdown; the rest stays."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["markup_title_and_text"]

_LATEX_TITLE = re.compile(r"^\\title\{([^\n]+)\}[^\S\n]*$", re.MULTILINE)
_LATEX = re.compile(
    r"^\\(chapter|section|subsection|subsubsection)\*?\{([^\n]+?)\}[^\S\n]*(?:\\label\{[^\n}]*\})?$",
    re.MULTILINE,
)
_LATEX_LEVELS = {"chapter": "#", "section": "##", "subsection": "###", "subsubsection": "####"}
_ASCIIDOC = re.compile(r"^(={1,6})[^\S\n]+(?=\S)", re.MULTILINE)
_ORG = re.compile(r"^(\*{1,6})[^\S\n]+(?=\S)", re.MULTILINE)
_ORG_TITLE = re.compile(r"^#\+title:[^\S\n]*([^\n]+)$", re.MULTILINE | re.IGNORECASE)


def markup_title_and_text(source: str, suffix: str) -> tuple[str, str]:
    """The title, "" if the document has no other than its headings, and the text.

    Args:
        source: The document.
        suffix: Of its name; text without headings of its own stays as it is.
    """
    return _READERS[suffix](source) if suffix in _READERS else ("", source)


def _rst(source: str) -> tuple[str, str]:
    lines: list[str] = []
    kinds: list[tuple[str, bool]] = []
    for line in source.split("\n"):
        under, name = line.rstrip(), lines[-1].strip() if lines else ""
        before = lines[-2].rstrip() if len(lines) > 1 else ""
        if not (_is_rule(under) and 0 < len(name) <= len(under) and before in ("", under)):
            lines.append(line)
            continue
        kind = under[0], before == under
        if kind not in kinds:  # levels are as they come
            kinds.append(kind)
        del lines[-2 if kind[1] else -1 :]
        lines.append(f"{'#' * min(kinds.index(kind) + 1, 6)} {name}")
    return "", "\n".join(lines)


def _is_rule(line: str) -> bool:
    """Whether a line consists of one sign again and again."""
    return len(line) > 2 and not line[0].isalnum() and line == line[0] * len(line)


def _tex(source: str) -> tuple[str, str]:
    title = _LATEX_TITLE.search(source)
    text = _LATEX.sub(lambda match: f"{_LATEX_LEVELS[match[1]]} {match[2]}", source)
    return title[1] if title else "", text


def _adoc(source: str) -> tuple[str, str]:
    return "", _ASCIIDOC.sub(lambda match: f"{'#' * len(match[1])} ", source)


def _org(source: str) -> tuple[str, str]:
    title = _ORG_TITLE.search(source)
    text = _ORG.sub(lambda match: f"{'#' * len(match[1])} ", source)
    return title[1].strip() if title else "", text


_READERS: dict[str, Callable[[str], tuple[str, str]]] = {
    ".adoc": _adoc,
    ".org": _org,
    ".rst": _rst,
    ".tex": _tex,
}
