"""Markdown to Markdown: without link targets, badges, comments and raw HTML."""

from __future__ import annotations

import re
from typing import Any

from markdown_it import MarkdownIt

from refrag_components.text.html import html_title_and_text

__all__ = ["markdown_title_and_text"]

_DEEPEST = 100  # quotes and list items in one another; the parser calls itself for each
_PARSER = MarkdownIt("commonmark", {"maxNesting": _DEEPEST}).enable(["table", "strikethrough"])
_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[^\S\n]*[\"']?(.+?)[\"']?[^\S\n]*$", re.MULTILINE)


def markdown_title_and_text(source: str) -> tuple[str, str]:
    """The title that the front matter names, "" without one, and the text, as Markdown."""
    front = _FRONT_MATTER.match(source)
    title = _TITLE.search(front[1]) if front else None
    body = source[front.end() :] if front else source
    return title[1] if title else "", _text(body)


def _text(body: str) -> str:
    environment: dict[str, Any] = {}
    tokens = _PARSER.parse(body, environment)
    if any(token.level >= _DEEPEST - 1 for token in tokens):  # what is deeper was left out
        return body.strip()
    html = _PARSER.renderer.render(tokens, _PARSER.options, environment)
    return html_title_and_text(html, whole=True)[1]
