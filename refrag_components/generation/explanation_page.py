"""An explanation as HTML: for a notebook, and as a page that loads nothing from anywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Protocol

from jinja2 import Environment, StrictUndefined, Template

from refrag_components.generation.explained_passage import ExplainedPassage
from refrag_components.generation.report import Report

__all__ = ["fragment", "page"]

_WORDS = {
    "prompt": "ordinary text",
    "expanded": "read as text",
    "compressed": "read as a chunk embedding",
    "dropped": "not read",
}
# Browsers follow none of these, but a page may not hold them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Colours are the browser's own in light and in dark; the policy keeps even a forged text from
# loading anything.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { margin: 0; padding: 2rem 1rem 4rem; background: Canvas; color: CanvasText; }
</style>
</head>
<body>
{{ content | safe }}
</body>
</html>
"""


class _View(Protocol):
    """What is shown of an ``Explanation``."""

    @property
    def parts(self) -> Sequence[str | ExplainedPassage]: ...
    @property
    def passages(self) -> Sequence[ExplainedPassage]: ...
    @property
    def report(self) -> Report: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


def page(view: _View) -> str:
    """A whole page."""
    title = _shown(view.question) or "A prompt, explained"
    template = _environment().from_string(_PAGE)
    return template.render(title=title, content=fragment(view))


def fragment(view: _View) -> str:
    """A picture for the inside of another page; it takes that page's colours."""
    report = view.report
    ordinary = report.positions - report.context_positions
    by_rung = _by_rung(view)
    embeddings = sum(by_rung.values())
    return _template().render(
        view=view,
        as_text=ordinary + report.context_tokens,
        saved=report.context_tokens - report.context_positions,
        bars={
            "all as text": {"prompt": ordinary, "expanded": report.context_tokens},
            "as it was read": {
                "prompt": ordinary,
                "expanded": report.context_positions - embeddings,
                "compressed": embeddings,
            },
        },
        times=_times(view),
        words=_WORDS,
        by_rung=by_rung,
        number=count(1).__next__,
    )


def _times(view: _View) -> Mapping[str, float]:
    first = view.report.time_to_first_token
    return {**({} if first is None else {"first token after": first}), **view.seconds}


def _by_rung(view: _View) -> Mapping[int, int]:
    """Chunk embeddings of each rung, the finest first."""
    counts: Counter[int] = Counter()
    for passage in view.passages:
        counts[passage.rung] += sum(piece.fate == "compressed" for piece in passage.pieces)
    return {rung: counts[rung] for rung in sorted(counts) if counts[rung]}


def _shown(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)


@cache
def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["shown"] = _shown
    return environment


@cache
def _template() -> Template:
    source = files(__package__).joinpath("explanation.html.jinja").read_text(encoding="utf-8")
    return _environment().from_string(source)
