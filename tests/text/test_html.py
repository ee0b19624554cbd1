"""Pages are read as what they say, without what stands around it."""

from __future__ import annotations

import pytest

from refrag_components.exceptions import DocumentError
from refrag_components.text.extraction import extract
from tests.made_files import PAGE


def text(source: str) -> str:
    return extract(source.encode(), ".html").text


def test_reads_html() -> None:
    source = """<!doctype html>
    <html><head><title>A  title</title><style>p {color: red}</style></head>
    <body><!-- comment --><script>alert("x")</script><noscript>No script</noscript>
    <h1>Head</h1><p>Some <b>bold</b>
       text<br>next&nbsp;line &amp; more<p>Unclosed
    <ul><li>one</li><li>two</li></ul>
    <table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>
    <pre>def f():\n    return 1</pre>tail</body></html>"""
    assert extract(source.encode(), ".html").title == "A title"
    assert text(source).split("\n\n") == [
        "# Head",
        "Some bold text\nnext line & more",
        "Unclosed",
        "- one\n- two",
        "| a | b |\n| --- | --- |\n| c |",
        "```\ndef f():\n    return 1\n```",
        "tail",
    ]


def test_menus_footers_cookies_and_hidden_parts_are_left_out() -> None:
    read = text(PAGE)
    for around in (
        "Home", "About", "Shop", "cookie", "Other ports", "promo", "spam", "icon", "template",
        "Edition", "comment", "svg", "Icon", "Imprint", "secret", "color",
    ):  # fmt: skip
        assert around not in read
    assert read.startswith("# Ports of Eastport\n\n## 1 History\n\nThe harbour was dug in 1907")
    assert "A map of the harbour" in read


def test_neighbours_are_apart_and_numbers_stay_what_they_are() -> None:
    read = text(PAGE)
    assert "10^6 tonnes" in read
    assert "~~10~~ 12 euro" in read
    links = "<p><a href='/a'>Home</a><a href='/b'>Harbour</a></p><p>H<sub>2</sub>O, 5<sup>th</sup>"
    assert text(links) == "Home Harbour\n\nH2O, 5^th"
    assert text("<p><span>H</span>istory of <b>har</b>bours") == "History of harbours"


def test_cells_are_kept_in_columns() -> None:
    table = [line for line in text(PAGE).split("\n") if line.startswith("|")]
    assert table == [
        "| Port | Ships | Cargo |",
        "| --- | --- | --- |",
        "| Eastport | 0 | 2,248 |",
        "| Rosk |  | 31 |",
        "| Rosk | 6 | 7 |",
    ]


@pytest.mark.parametrize("span", ["0", "x", "-1", "99999999999999999999"])
def test_odd_spans_do_no_harm(span: str) -> None:
    page = f"<table><tr><td rowspan={span} colspan={span}>a<td>b<tr><td>c</table>"
    assert text(page).count("b") == 1


def test_code_keeps_its_lines_and_its_language() -> None:
    assert "```python\ndef f(x):\n    return x + 1\n```" in text(PAGE)


def test_the_main_part_is_the_text() -> None:
    page = "<body><div>Latest news</div><main><h1>Tides</h1><p>High at noon.</main></body>"
    assert text(page) == "# Tides\n\nHigh at noon."
    assert text("<body><main></main><p>High at noon.</body>") == "High at noon."


def test_a_page_that_is_all_menu_is_read_as_it_is() -> None:
    assert text("<nav><a href=/a>Tides</a><a href=/b>Ports</a></nav>") == "Tides Ports"


def test_a_heading_or_a_menu_of_dishes_is_no_menu() -> None:
    page = "<header><h1>Tides</h1></header><div class=menu><p>Soup, <a href=/f>fish</a> and bread"
    assert text(page) == "# Tides\n\nSoup, fish and bread"


def test_deeply_nested_html_is_read() -> None:
    assert text("<div>" * 5000 + "deep") == "deep"


@pytest.mark.parametrize("source", ["<script>1</script>", "<!-- x -->", "<div hidden>x</div>"])
def test_html_without_text_is_refused(source: str) -> None:
    with pytest.raises(DocumentError, match="holds no text"):
        text(source)
