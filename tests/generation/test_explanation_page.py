from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from bs4.element import Tag

from refrag_components.generation.explained_passage import ExplainedPassage, Piece
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.report import Report

HOSTILE = (
    '</mark></div><script>document.title = "owned"</script><img src="https://example.org/x" '
    'onerror="document.title=1"> {{ 7 * 7 }} {% raw %} &amp; \x00\x1b[31m\u202eevil\ud800 \'" '
    "</style><style>*{display:none}</style><!-- "
)
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def view(text: str = "dug in 1907", **changes: object) -> Explanation:
    report = Report(
        context_tokens=40, context_positions=16, positions=26, rate=2.5, chunks=10, expanded=2,
        compressed=6, dropped=2, cache_hits=2, cache_misses=0, fallbacks=0,
        policy="learned-query", budget=0.25, rest="compress", output_tokens=3,
        time_to_first_token=0.25, warnings=[f"It rains: {text}"],
    )  # fmt: skip
    fine = (
        Piece("The harbour was ", "compressed", 1, -0.5),
        Piece(text, "expanded", 8, 2.0),
        Piece(" at a cost.", "compressed", 1, 0.1),
    )
    coarse = (Piece("Rain fell.", "compressed", 1), Piece(" Then none.", "dropped", 0))
    passages = (
        ExplainedPassage(fine, 20, 4, source=f"harbour.md {text}", score=0.87),
        ExplainedPassage(coarse, 20, 16),
    )
    explained = Explanation(
        (f"<|im_start|>{text}", passages[0], "\n\n", passages[1]),
        report,
        question=f"When? {text}",
        answer=f"In 1907. {text}",
        seconds={"search": 0.01},
    )
    return replace(explained, **changes)  # type: ignore[arg-type]


def parsed(page: str) -> BeautifulSoup:
    return BeautifulSoup(page, "lxml")


def classes(soup: BeautifulSoup, name: str) -> list[Tag]:
    return list(soup.find_all(class_=name))


def test_the_page_tells_what_happened() -> None:
    soup = parsed(view().to_html())
    text = " ".join(soup.get_text(" ").split())
    assert soup.title is not None and soup.title.text == "When? dug in 1907"
    assert "In 1907. dug in 1907" in text
    assert "24 of 50" in text  # positions saved, of those as text
    assert "2.5" in text and "0.25 s" in text and "0.01 s" in text
    assert "learned-query, 0.25" in text
    assert "It rains" in text
    assert "in 2 embeddings of 4 tokens, 1 embeddings of 16 tokens" in text


def test_every_piece_is_shown_as_what_became_of_it() -> None:
    soup = parsed(view().to_html())
    first, second = soup.find_all("article")
    assert [tag.text for tag in first.find_all("mark")] == ["dug in 1907"]
    assert [tag.text for tag in first.find_all("i")] == ["The harbour was ", " at a cost."]
    assert [tag.text for tag in second.find_all("s")] == [" Then none."]
    assert first.find("mark")["title"] == "read as text, 8 positions, policy score 2"
    assert "harbour.md dug in 1907" in first.text and "score 0.87" in first.text
    assert "20 tokens in 10 positions · 4 tokens per embedding" in first.text
    assert second.text.strip().startswith("2. passage")


def test_the_bars_are_to_scale() -> None:
    soup = parsed(view().to_html())
    whole, read = (
        [float(width) for width in re.findall(r"width: ([\d.]+)%", str(bar))]
        for bar in classes(soup, "bar")
    )
    assert sum(read) / sum(whole) == pytest.approx(26 / 50, abs=0.01)
    assert [bar.text for bar in classes(soup, "bar")] == ["50", "26"]


def test_content_is_text_and_nothing_else() -> None:
    page = view(HOSTILE).to_html()
    soup = parsed(page)
    names = {tag.name for tag in soup.find_all(True)}
    assert not names & {"script", "img", "link", "iframe", "object", "a"}
    assert len(soup.find_all("style")) == 2
    assert not [a for tag in soup.find_all(True) for a in tag.attrs if a.startswith("on")]
    assert {"src", "href"}.isdisjoint(a for tag in soup.find_all(True) for a in tag.attrs)
    assert "{{ 7 * 7 }}" in soup.get_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)
    mark = soup.select_one("article mark")
    assert isinstance(mark, Tag)
    assert mark.text.startswith('</mark></div><script>document.title = "owned"</script>')


def test_the_page_loads_nothing() -> None:
    page = view().to_html()
    assert "default-src 'none'" in page
    assert "://" not in page and "@import" not in page and "url(" not in page


def test_light_and_dark_are_the_browsers() -> None:
    page = view().to_html()
    assert '<meta name="color-scheme" content="light dark">' in page
    assert "background: Canvas; color: CanvasText" in page
    # Letters keep the colour that they inherit, so they can be read on either.
    assert set(re.findall(r"[^-]color: (\w+)", page)) <= {"CanvasText", "inherit"}


def test_notebooks_show_the_same_without_the_page_around_it() -> None:
    shown = view()._repr_html_()
    assert shown in view().to_html()
    assert "<body" not in shown and "<title" not in shown
    # The styles concern nothing else of the notebook.
    rules = re.findall(r"^([.\w][^{\n]*)\{", shown, flags=re.MULTILINE)
    assert rules and all(rule.startswith(".refrag-view") for rule in rules)


def test_a_prompt_without_passages_answer_or_question() -> None:
    report = replace(view().report, context_tokens=0, context_positions=0, positions=3)
    soup = parsed(Explanation(("just text",), report).to_html())
    assert "just text" in soup.get_text() and not soup.find_all("article")


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.timeout(600)  # a busy machine takes minutes to start it
@pytest.mark.parametrize("text", ["dug in 1907", HOSTILE])
def test_a_browser_shows_it(text: str, tmp_path: Path) -> None:
    assert BROWSER is not None
    view(text).save(tmp_path / "page.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'own'}"]
    result = subprocess.run(
        [BROWSER, *options, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    soup = parsed(result.stdout)
    assert soup.title is not None and soup.title.text.startswith("When?")  # no script has run
    assert len(soup.find_all("article")) == 2
    assert not soup.find_all(["script", "img"])
