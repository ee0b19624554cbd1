"""HTML to Markdown: what a page says, without what stands around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy

from bs4 import BeautifulSoup, Tag
from bs4.element import PageElement, PreformattedString
from markdownify import ATX, MarkdownConverter

from refrag_components.exceptions import DocumentError

__all__ = ["html_title_and_text", "tidy"]

# No part of the text on any page.
_NEVER = (
    "script, style, noscript, template, svg, iframe, object, canvas, audio, video, select, "
    "datalist, button, input, textarea, [hidden], [aria-hidden=true]"
)
# What stands around the text, by the names that HTML and ARIA have for it.
_AROUND = (
    "nav, body > footer, body > div > footer, [role=navigation], [role=contentinfo], "
    "[role=search], [role=menu], [role=menubar], [role=toolbar], [role=dialog], "
    "[role=alertdialog], a.headerlink"
)
_BANNER = re.compile(
    r"(?:.*[-_])?(?:cookies?|gdpr|consent)(?:[-_](?:banner|notice|bar|popup|message|modal))?", re.I
)
_MENU = re.compile(
    r"(?:.*[-_])?(?:nav|navbar|navigation|menu|sidebar|sphinxsidebar|breadcrumbs?|footer|toc)", re.I
)
_INVISIBLE = re.compile(r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_NUMBER = re.compile(r"[-+\u2212]?[0-9a-z]{1,3}", re.I)
_MOST_SPANNED = 200  # rows; browsers allow 65,534


class _Converter(MarkdownConverter):
    """Markdown as it is read: no link targets, no image files, no emphasis, no escapes."""

    class Options:
        bullets = "-"
        code_language_callback = staticmethod(lambda tag: _language(tag))
        escape_asterisks = False
        escape_underscores = False
        heading_style = ATX
        table_infer_header = True
        wrap = True  # line ends are white space
        wrap_width = None

    def convert_a(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return text

    convert_b = convert_em = convert_i = convert_strong = convert_a

    def convert_img(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return "" if "a" in parent_tags else str(el.get("alt") or "").strip()

    def convert_br(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return " " if "_inline" in parent_tags else "\n"

    def convert_sup(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"^{text}" if _NUMBER.fullmatch(text) else text  # 10^6 is not 106

    def convert_figure(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        if not text.strip():
            return ""
        return f" {text.strip()} " if "_inline" in parent_tags else f"\n\n{text.strip()}\n\n"

    convert_address = convert_aside = convert_details = convert_fieldset = convert_figure
    convert_footer = convert_form = convert_header = convert_hgroup = convert_figure
    convert_main = convert_summary = convert_figure

    def convert_dd(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        return f"{text.strip()}\n"


def html_title_and_text(source: str, *, whole: bool = False) -> tuple[str, str]:
    """The title and the text of a page, as Markdown.

    Args:
        source: The page.
        whole: Keep what looks like a menu or a footer, as for parts of other documents.

    Raises:
        DocumentError: If the page cannot be parsed.
    """
    soup = _parsed(source)
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    _remove(soup.select("head, title"))
    _remove(soup.select(_NEVER))
    _remove(tag for tag in soup.select("[style]") if _INVISIBLE.search(str(tag["style"])))
    around = [] if whole else _around(soup)
    # A page that is a menu as a whole is read as it is.
    if any(text.strip() and not _inside(text, around) for text in soup.strings):
        _remove(around)
    main = [] if whole else soup.select("main, [role=main]")
    if len(main) == 1 and main[0].get_text(strip=True):
        return title, _markdown(main[0])
    return title, _markdown(soup)


def tidy(text: str) -> str:
    """Text without white space at line ends and with at most one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.replace("\xa0", " ").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n")


def _parsed(source: str) -> BeautifulSoup:
    """The tree of a page, without comments and declarations."""
    try:
        soup = BeautifulSoup(source, "lxml")
    except MemoryError:
        raise
    except Exception as error:  # some malformed markup makes the parser give up
        raise DocumentError(f"is not readable HTML; save it as text: {error}") from error
    for node in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        node.extract()
    return soup


def _remove(tags: Iterable[Tag]) -> None:
    for tag in tags:
        tag.decompose()


def _around(soup: BeautifulSoup) -> list[Tag]:
    """Menus, footers and banners, by their names."""
    tags = soup.select(_AROUND)
    for tag in soup.select("[class], [id], aside, header"):
        names = [*tag.get_attribute_list("class"), *tag.get_attribute_list("id")]
        words = [str(name) for name in names if name]
        menu = tag.name in ("aside", "header") or any(map(_MENU.fullmatch, words))
        if any(map(_BANNER.fullmatch, words)) or (menu and _mostly_links(tag)):
            tags.append(tag)
    return tags


def _mostly_links(tag: Tag) -> bool:
    linked = sum(len(link.get_text(strip=True)) for link in tag.find_all("a"))
    return linked > len(tag.get_text(strip=True)) // 2


def _inside(node: PageElement, tags: Sequence[Tag]) -> bool:
    ids = set(map(id, tags))
    return any(id(parent) in ids for parent in node.parents)


def _markdown(tag: Tag) -> str:
    _fill_spanned(tag)
    _part_neighbours(tag)
    try:
        return tidy(_Converter().convert_soup(tag))
    except RecursionError:  # thousands of tags in one another
        return tidy(tag.get_text("\n"))


def _part_neighbours(root: Tag) -> None:
    """Puts a space between tags that style sheets keep apart."""
    for tag in root.find_all(["a", "img", "ins", "span"]):
        before = tag.previous_sibling
        if not isinstance(before, Tag):
            continue
        numbered = before.get_text()[-1:].isdigit() and tag.get_text()[:1].isalpha()
        if tag.name != "span" or numbered:  # a span may be the first letter of a word
            tag.insert_before(" ")


def _fill_spanned(root: Tag) -> None:
    """Repeats cells that span rows in each of them, so that columns stay below their heads."""
    for cell in root.select("td[rowspan], th[rowspan]"):
        span, row = str(cell.attrs.pop("rowspan")), cell.parent
        if row is None or not span.isdecimal():
            continue
        place = len(cell.find_previous_siblings(["td", "th"]))
        following = row.find_next_siblings("tr", limit=min(int(span[:4]), _MOST_SPANNED) - 1)
        for other in following if int(span[:4]) > 1 else ():
            other.insert(_position(other, place), copy(cell))


def _position(row: Tag, place: int) -> int:
    """Where among a row's children its cell of this number stands."""
    cells = row.find_all(["td", "th"], recursive=False)
    return row.index(cells[place]) if place < len(cells) else len(row.contents)


def _language(pre: Tag) -> str:
    """Of a block of code, where the page says it as highlighters expect."""
    code = pre.find("code")
    names = code.get_attribute_list("class") if code is not None else []
    found = (str(name)[len("language-") :] for name in names if str(name).startswith("language-"))
    return next(found, "")
