"""Small documents of each type, made here: what the tests and benchmarks/documents.py read."""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Iterable, Sequence

from pypdf import PdfReader, PdfWriter

_FONT = (
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Type /Encoding "
    "/BaseEncoding /WinAnsiEncoding /Differences [1 /fi /fl /ff /ffi] >> >>"
)
TABLE = [
    ("Port", "Ships", "Cargo"),
    ("Eastport", "0", "2,248"),
    ("Rosk", "12", "31"),
    ("Old town", "", "7"),
]
"""A table whose cells give other numbers where they run together, and with an empty one."""

# -- PDF ----------------------------------------------------------------------------------------


def shown(x: float, y: float, text: str, size: int = 11) -> str:
    """Commands that show a line; ``text`` is escaped as in a PDF's string."""
    return f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n"


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text per page."""
    return drawn_pdf(*(shown(72, 720, page, 12) if page else "" for page in pages))


def lines(texts: Iterable[str], top: float = 720) -> str:
    """Commands that show lines below one another."""
    return "".join(shown(72, top - 14 * i, text) for i, text in enumerate(texts))


def drawn_pdf(
    *pages: str, catalog: str = "", font: str = _FONT, more: Sequence[str] = (), page: str = ""
) -> bytes:
    """A PDF of pages with these commands.

    Args:
        pages: Commands of each page.
        catalog: More entries of its catalog.
        font: The font F1.
        more: More objects, whose numbers follow those of the pages: from ``4 + 2 * len(pages)``.
        page: More entries of each page.
    """
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        font,
    ]
    for i, commands in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {page} "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(commands)} >>\nstream\n{commands}\nendstream")
    body, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate((*objects, *more), start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(offsets) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 {size}\n0000000000 65535 f \n{table}".encode() + trailer.encode()


def encrypted(data: bytes, user: str, owner: str, algorithm: str = "RC4-128") -> bytes:
    """A PDF encrypted with two passwords; AES needs the package cryptography."""
    writer = PdfWriter(PdfReader(io.BytesIO(data)))
    writer.encrypt(user, owner, algorithm=algorithm)
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


_AES = (
    "eNqNVE2LJEUQPQp1URBhwUuKzFErvytTmoHZnW531WHaaR2FZZDIzMjZ0p6qobpm2BVE8CcIehWvIugf8ORhRcU9"
    "COLBk14Fj3oRjOqej8b2YFUlZEa+ePEyIiq3pruT58Tzqtj69bdHPxaCcdaGt4vRqChfe3CKrLwFPczb46KcwjEu"
    "mCTAQbG9XWCTBqDccFjiivLlOi3YXaYGPDsqylvtWdMzseaq/tN1CNQhQVeRyj1MNdxs7xMXp9cKySovB8YDXLRn"
    "XSRRA8OkJZ/lRDB9KZI+Ctz0xLdg5l/S9Ub8gaMoZ2ehXy4HoyjKm7DAJXt5G+fn2NcRinLcxDbVzTG79r40rTyu"
    "AOUbdbPTLOrr7d06Z6QzDtLvMsHKXNOY08jDqOlwK+0XQs2a0FewOe7vMauH/UXfIZwU5ecfyu7n92/88MLj06ee"
    "/mz88ZF84vDVT/7467tfzr/4cyR//+qnF5uH7z32PXvmoxv6gzeffPTSW882e39/+uXX337zzkM7xLmguoho1yIe"
    "MkO5ZvYqtjQ0nzItvfa2kl5Szut5jx0rZz00CbpUlPtsxL0SXgqTctAuI9gKtFIyOuECOCcrtMIC8gApO3BeZOFE"
    "BdY4mTAnlZ0n9whK85QqaxRXwSrujXARgAPV9nU2ctHnQDDhyF5Z6Z0KPBufvbQIUgewAFGA1pAVCG895syDB+6l"
    "NzlVLkjrTNRaIfoqawc6i2wkRoUe49BBk2WVZ326mO2c9ffG50OTlrtt3D/FZgDtsXJnPDtUV4lS8rIHZ/3JhK0I"
    "hkV3vdgfs5EJic5ggnMJNQoMVqA3kUeXc9SRU+pIrpE+OJEh64iyslnqQTXlTg6JIBpAaargYxSYfKSjBBlon/Ki"
    "fQCebJBgQ2WClVmpSLjgok7IqY5eoSaaKXYn9Dtl2jcmZgyOis2pJDpSyypnk6fQfL0573eYC86qgl89zBqjDMvs"
    "yiaohZc7zbXN6g2bkGrDJo3YsGnJN2xGrfH1HdRz7Jb9O6vfRZJXHrQt3T+rS+XOLv14I++gguCz4o5r6jpeWZes"
    "1lEIl2TM2/8HcrS8C7oHpz2zlxfMooeuXyZGcOeLra3x/qT4BzkSgQ8="
)


def aes_pdf() -> bytes:
    """What ``encrypted(pdf("Open to all"), "", "owner", "AES-256")`` returned once."""
    return zlib.decompress(base64.b64decode(_AES))


def table_pdf() -> bytes:
    """A line, a table and a line."""
    cells = (
        shown(x, 700 - 16 * row, text)
        for row, texts in enumerate(TABLE)
        for x, text in zip((72, 150, 200), texts, strict=True)
        if text
    )
    return drawn_pdf(
        shown(72, 740, "Traffic of the ports in a year")
        + "".join(cells)
        + shown(72, 600, "Ships are counted once. Cargo is in tonnes.")
    )


def hyphens_pdf() -> bytes:
    """Lines that end inside words, ligatures, and words that have a hyphen of their own."""
    return drawn_pdf(
        lines(
            [
                "The e\\004cient harbour of Eastport was dug by an ef-",
                "\\001cient \\001rm in 1907. It is a well-known harbour, well-",
                "known to the sailors of the Anglo-",
                "Saxon coast.",
            ]
        )
    )


def narrow_spaces_pdf() -> bytes:
    """Words that are kept apart by their places alone, in a font whose space is wide."""
    widths = " ".join("1000" if code == 32 else "550" for code in range(32, 127))
    font = (
        "<< /Type /Font /Subtype /TrueType /BaseFont /ABCDEF+Some /FirstChar 32 /LastChar 126 "
        f"/Widths [{widths}] /Encoding /WinAnsiEncoding /FontDescriptor << /Type /FontDescriptor "
        "/FontName /ABCDEF+Some /Flags 32 /FontBBox [0 -200 1000 800] /Ascent 800 /Descent -200 "
        "/ItalicAngle 0 /CapHeight 700 /StemV 80 >> >>"
    )
    words = " -250 ".join(f"({word})" for word in ["What", "is", "Earth", "Science", "?"])
    return drawn_pdf(f"BT /F1 11 Tf 72 700 Td [{words}] TJ ET\n", font=font)


def columns_pdf() -> bytes:
    """Two columns of running text."""
    return drawn_pdf(
        "".join(
            shown(x, 700 - 14 * i, f"{side} line {i} of a column of words,")
            for side, x in (("Left", 72), ("Right", 330))
            for i in range(6)
        )
    )


def form_pdf() -> bytes:
    """A form into which somebody has typed."""
    form = (
        "/AcroForm << /Fields [6 0 R] /NeedAppearances true /DA (/Helv 0 Tf 0 g) "
        "/DR << /Font << /Helv 3 0 R >> >> >>"
    )
    field = (
        "<< /Type /Annot /Subtype /Widget /FT /Tx /T (port) /V (Eastport harbour) "
        "/Rect [200 695 400 715] /DA (/Helv 11 Tf 0 g) /F 4 /P 4 0 R >>"
    )
    commands = shown(72, 700, "Name of the port:")
    return drawn_pdf(commands, catalog=form, more=[field], page="/Annots [6 0 R]")


def bookmarked_pdf() -> bytes:
    """Two pages, each with a heading that a bookmark names."""
    first = lines(["1 History", "The harbour was dug in 1907."])
    second = lines(["2 Trade", "Grain and salt were traded."])
    outlines = [
        "<< /Type /Outlines /First 9 0 R /Last 10 0 R /Count 2 >>",
        "<< /Title (History) /Parent 8 0 R /Next 10 0 R /Dest [4 0 R /Fit] >>",
        "<< /Title (2 Trade) /Parent 8 0 R /Prev 9 0 R /Dest [6 0 R /Fit] >>",
    ]
    return drawn_pdf(first, second, catalog="/Outlines 8 0 R", more=outlines)


def soup_pdf() -> bytes:
    """A page of words, and one whose glyphs do not say which characters they are."""
    sentence = (
        "When the tide turns, ships leave the basin and sail along the coast to the next town. "
    )
    shifted = "".join(c if c == " " else chr(max(ord(c) - 29, 33)) for c in sentence)
    escaped = shifted.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    return drawn_pdf(lines([sentence]), lines([escaped] * 8))


def long_pdf(pages: int = 9) -> bytes:
    """Pages as full as those of papers."""
    text = "Line {} holds as many words as a line of a paper in two columns and more, so that time"
    return drawn_pdf(*(lines((text.format(i) for i in range(50)), 760) for _ in range(pages)))


# -- HTML, Markdown and text --------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>Ports of Eastport</title>
<script>var x="secret script";</script><style>p {color: red}</style></head><body>
<header><a href="/">Eastport</a><a href="/shop">Shop</a></header>
<nav><a href="/">Home</a><a href="/about">About</a></nav>
<div id="cookie-banner">We use cookies. <button>Accept cookies</button></div>
<div class="sidebar"><ul><li><a href="/a">Other ports</a></li></ul></div>
<div hidden>Hidden promo</div><div style="color: red; display:none">Invisible spam</div>
<div aria-hidden="true">icon of a ship</div><template><p>template text</p></template>
<select><option>US Edition</option><option>UK</option></select><!-- a comment -->
<svg><title>Icon title</title><text>svg text</text></svg>
<h1>Ports of Eastport</h1><h2><span class="n">1</span><span>History</span></h2>
<p>The harbour was dug in 1907, see <a href="https://example.org/doc">the plan</a>.
It holds 10<sup>6</sup> tonnes. Price: <del>10</del><ins>12</ins> euro.</p>
<img src="a.png" alt="A map of the harbour">
<table><tr><th>Port</th><th>Ships</th><th>Cargo</th></tr>
<tr><td>Eastport</td><td>0</td><td>2,248</td></tr>
<tr><td rowspan=2>Rosk</td><td></td><td>31</td></tr><tr><td>6</td><td>7</td></tr></table>
<ol><li>Anchor</li><li>Unload</li></ol>
<pre><code class="language-python">def f(x):
    return x + 1
</code></pre>
<footer>Imprint and privacy</footer></body></html>"""
"""A page with all that stands around the text of pages."""

README = """---
title: Harbour tools
---
# Harbour [![build](https://img.example.org/b.svg)](https://ci.example.org)

<!-- do not edit -->
<p align="center"><a href="https://example.org"><img src="logo.png"></a></p>

Reads **tide** tables, see [the manual](https://example.org/manual?a=1&b=2) and `tide_table()`.

| Port | Ships |
|------|-------|
| Rosk | 12    |

```python
x = a * b  # not *emphasis*
```
"""

SENTENCES = {
    "Russian": "Порт Истпорта был вырыт в 1907 году. Он лежит к северу от города, за молом.",
    "Polish": "Port został wykopany w 1907 roku. Leży na północ od miasta, za falochronem.",
    "Japanese": "イーストポートの港は1907年に掘られました。旧市街の北にあります。",
    "Chinese": "东港的港口于1907年挖掘。它位于旧城以北，在花岗岩防波堤后面。",
    "Taiwanese": "東港的港口於1907年挖掘。它位於舊城以北，在花崗岩防波堤後面。",
    "Korean": "이스트포트 항구는 1907년에 만들어졌다. 옛 시가지 북쪽에 있다.",
    "Greek": "Το λιμάνι σκάφτηκε το 1907. Βρίσκεται βόρεια της παλιάς πόλης.",
    "French": "Le port a été creusé en 1907. Il se trouve derrière un môle en granit.",
}
ENCODINGS = [
    ("Russian", "windows-1251"),
    ("Russian", "koi8-r"),
    ("Russian", "iso-8859-5"),
    ("Polish", "iso-8859-2"),
    ("Polish", "windows-1250"),
    ("Japanese", "euc-jp"),
    ("Japanese", "shift_jis"),
    ("Japanese", "iso-2022-jp"),
    ("Chinese", "gb18030"),
    ("Taiwanese", "big5"),
    ("Korean", "euc-kr"),
    ("Greek", "windows-1253"),
    ("French", "windows-1252"),
    ("French", "utf-16-le"),
    ("Russian", "utf-16-be"),
]
"""Sentences and the encodings that they are found in."""


def declared_page(language: str, encoding: str) -> bytes:
    """A page that names its encoding."""
    page = f'<html><head><meta charset="{encoding}"><title>T</title></head><body><p>'
    return f"{page}{SENTENCES[language]}</p></body></html>".encode(encoding)


def epub() -> bytes:
    """A book of two chapters, in another order than their names."""
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Ports</dc:title></metadata>'
        '<manifest><item id="a" href="text/a.xhtml"/><item id="b" href="text/b%20b.xhtml"/>'
        '</manifest><spine><itemref idref="b"/><itemref idref="a"/></spine></package>'
    )
    chapter = '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head><body>{}</body></html>'
    table = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in TABLE)
    return zipped(
        {
            "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/c.opf"/>'
            "</rootfiles></container>",
            "OEBPS/c.opf": package,
            "OEBPS/text/a.xhtml": chapter.format(f"<h1>Trade</h1><table>{table}</table>"),
            "OEBPS/text/b b.xhtml": chapter.format("<h1>History</h1><p>Dug in 1907.</p>"),
        }
    )


def zipped(files: dict[str, str]) -> bytes:
    """An archive of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def docx(title: str = "") -> bytes:
    """A title, if there is one, a heading, a paragraph and a table."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    paragraph = "<w:p>{}<w:r><w:t>{}</w:t></w:r></w:p>"
    styled = '<w:pPr><w:pStyle w:val="{}"/></w:pPr>'
    heading = paragraph.format(styled.format("Heading1"), "History")
    if title:
        heading = paragraph.format(styled.format("Title"), title) + heading
    rows = "".join(
        "<w:tr>" + "".join(f"<w:tc>{paragraph.format('', c)}</w:tc>" for c in row) + "</w:tr>"
        for row in TABLE
    )
    body = heading + paragraph.format("", "The harbour was dug in 1907.") + f"<w:tbl>{rows}</w:tbl>"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    styles = (
        f'<w:styles {space}><w:style w:type="paragraph" w:styleId="Heading1">'
        '<w:name w:val="heading 1"/></w:style><w:style w:type="paragraph" w:styleId="Title">'
        '<w:name w:val="Title"/></w:style></w:styles>'
    )
    return zipped(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
            'content-types"><Default Extension="rels" ContentType="application/vnd.'
            'openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" '
            f'ContentType="{kind}.document.main+xml"/><Override PartName="/word/styles.xml" '
            f'ContentType="{kind}.styles+xml"/></Types>',
            "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
            f'relationships"><Relationship Id="r" Type="{office}" Target="word/document.xml"/>'
            "</Relationships>",
            "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.'
            'org/package/2006/relationships"><Relationship Id="s" Type="http://schemas.'
            'openxmlformats.org/officeDocument/2006/relationships/styles" Target="styles.xml"/>'
            "</Relationships>",
            "word/styles.xml": styles,
            "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
        }
    )


def xlsx() -> bytes:
    """A sheet with a table."""
    rows = "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{c}</t></is></c>' for c in row) + "</row>"
        for row in TABLE
    )
    base = "http://schemas.openxmlformats.org"
    sheet, kind = f"{base}/spreadsheetml/2006/main", "application/vnd.openxmlformats-officedocument"
    relations = f"{base}/officeDocument/2006/relationships"
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{base}/package/2006/content-types"><Default '
            'Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            'relationships+xml"/><Override PartName="/xl/workbook.xml" ContentType="'
            f'{kind}.spreadsheetml.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
            f'ContentType="{kind}.spreadsheetml.worksheet+xml"/></Types>',
            "_rels/.rels": f'<Relationships xmlns="{base}/package/2006/relationships">'
            f'<Relationship Id="r" Type="{relations}/officeDocument" Target="xl/workbook.xml"/>'
            "</Relationships>",
            "xl/workbook.xml": f'<workbook xmlns="{sheet}" xmlns:r="{relations}"><sheets><sheet '
            'name="Traffic" sheetId="1" r:id="s"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{base}/package/2006/'
            f'relationships"><Relationship Id="s" Type="{relations}/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{sheet}"><sheetData>{rows}'
            "</sheetData></worksheet>",
        }
    )


def pptx(title: str) -> bytes:
    """A slide with a title, a table and notes, which needs python-pptx to be made too."""
    from pptx import Presentation

    deck = Presentation()
    deck.core_properties.title = title
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Traffic"
    table = slide.shapes.add_table(len(TABLE), len(TABLE[0]), 0, 0, 100, 100).table
    for i, row in enumerate(TABLE):
        for j, cell in enumerate(row):
            table.cell(i, j).text = cell
    slide.notes_slide.notes_text_frame.text = "Ships are counted once."
    buffer = io.BytesIO()
    deck.save(buffer)
    return buffer.getvalue()


CODE = """# Tide tables.
import math


def tide(hours: float) -> float:
    \"\"\"Height | of the water.\"\"\"
    # Twice a day.
    return 2 * math.cos(hours / 6.2)
"""
"""A module whose comments look like headings."""

CSV = "\n".join(";".join(f'"{cell}"' for cell in row) for row in TABLE)
"""The table as some spreadsheets write it."""

JSON = '{"port": "Rosk", "ships": 12}'

NOTEBOOK = """{"cells": [
{"cell_type": "markdown", "metadata": {}, "source": ["# Tides\\n", "See [this](https://x.org)."]},
{"cell_type": "code", "execution_count": 1, "metadata": {}, "source": ["# a comment\\n", "1 + 1"],
 "outputs": [{"output_type": "execute_result", "data": {"text/plain": ["2 outputs"]}}]}],
"metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}"""
"""A notebook with a link and an output."""

RST = """Ports
=====

History
-------

Dug in 1907."""

EML = """From: Ada <ada@example.org>
To: Bo <bo@example.org>
Subject: =?utf-8?q?The_mole_=E2=80=93_a_plan?=
Date: Mon, 02 Mar 2026 10:00:00 +0000
MIME-Version: 1.0
Content-Type: text/html; charset=iso-8859-2
Content-Transfer-Encoding: quoted-printable

<p>Falochron le=BFy na p=F3=B3noc.</p>
"""
"""A letter in HTML, in an encoding that it names."""
