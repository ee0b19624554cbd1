"""Markdown to Markdown: without link targets, badges, comments and raw HTML."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

from refrag_components.text.html import html_title_and_text

__all__ = ["markdown_title_and_text"]

_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[^\S\n]*[\"']?(.+?)[\"']?[^\S\n]*$", re.MULTILINE)


def markdown_title_and_text(source: str) -> tuple[str, str]:
    """The title that the front matter names, "" without one, and the text, as Markdown."""
    front = _FRONT_MATTER.match(source)
    title = _TITLE.search(front[1]) if front else None
    body = source[front.end() :] if front else source
    return title[1] if title else "", html_title_and_text(_PARSER.render(body), whole=True)[1]
