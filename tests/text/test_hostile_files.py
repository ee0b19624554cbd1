"""Files and folders that were made to break, stop or mislead whoever reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from refrag_components.index import RefragIndex
from refrag_components.text import extraction_process
from refrag_components.text.documents import (
    Document,
    DocumentReader,
    Skipped,
    find_files,
    load_documents,
)
from refrag_components.text.extraction import Extracted, extract
from refrag_components.text.extraction_process import ExtractionProcess
from tests.fake_model import FakeModel
from tests.made_files import pdf

MALFORMED = "<p>Rain fell.</p><![if gte mso 9]><p>More</p><![endif]--><![CDATA[<!["


@pytest.fixture
def process() -> Iterator[ExtractionProcess]:
    process = ExtractionProcess()
    yield process
    process.close()


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """1,500 folders in one another, with a file in the last."""
    here, depth = os.getcwd(), 1500
    root = tmp_path / "deep"
    root.mkdir()
    os.chdir(root)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    Path("a.txt").write_text("Deep down.")
    yield root
    os.unlink("a.txt")
    for _ in range(depth):
        os.chdir("..")
        os.rmdir("d")
    os.chdir(here)


def reasons(results: Iterator[Document | Skipped]) -> dict[str, str]:
    return {Path(r.path).name: r.reason for r in results if isinstance(r, Skipped)}


def test_folders_may_nest_without_limit(deep: Path) -> None:
    (document,) = load_documents(deep)
    assert isinstance(document, Document)
    assert document.text == "Deep down."


def test_the_order_is_that_of_names_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/c/y.txt", "a.txt", "b.txt", "c.txt", "b/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)]
    assert names == ["a.txt", "b/c/y.txt", "b/d.txt", "b/z.txt", "b.txt", "c.txt"]


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, index: RefragIndex) -> None:
    (tmp_path / "secret.txt").write_text("The password is 1234.")
    docs = tmp_path / "docs"
    (docs / ".hidden").mkdir(parents=True)
    (docs / ".hidden" / "key.txt").write_text("The key is 5678.")
    (docs / "own.txt").write_text("Rain fell.")
    (docs / "out.txt").symlink_to(tmp_path / "secret.txt")
    (docs / "up.txt").symlink_to("../secret.txt")
    (docs / "key.txt").symlink_to(".hidden/key.txt")
    (docs / "in.txt").symlink_to("own.txt")
    (docs / "self.txt").symlink_to("self.txt")
    (docs / "folder").symlink_to(tmp_path)
    assert set(reasons(load_documents(docs))) == {
        "out.txt",
        "up.txt",
        "key.txt",
        "self.txt",
        "folder",
    }
    report = index.add_folder(docs)
    assert report.added == 2
    (hit,) = index.search("password key", k=5)
    assert hit.text == "Rain fell."
    assert [Path(source).name for source in hit.sources] == ["in.txt", "own.txt"]


@pytest.mark.parametrize(
    "content",
    [
        MALFORMED,
        "<![",
        "<!DOCTYPE [<!ENTITY",
        "<a" + " b='" * 1000,
        "<" * 10_000,
        "&#99999999999999999999;&#xd800;",
        "<div>" * 3000 + "</b>" * 3000,
        "\x00<p>x",
    ],
)
def test_malformed_pages_are_read_or_skipped(
    tmp_path: Path, index: RefragIndex, content: str
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.html").write_text(content, encoding="utf-8", errors="surrogatepass")
    (docs / "b.txt").write_text("Rain fell.")
    report = index.add_folder(docs)
    assert report.added + len(report.skipped) == 2
    assert "Rain fell." in {hit.text for hit in index.search("rain", k=5)}


def test_what_takes_too_long_is_skipped_and_the_next_file_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: RefragIndex
) -> None:
    monkeypatch.setattr(extraction_process, "MAX_SECONDS", 2.0)
    (tmp_path / "docs").mkdir()
    # Every end tag looks for its beginning through all that are open.
    (tmp_path / "docs" / "a.html").write_text("<b>" * 200_000 + "</i><u>" * 100_000)
    (tmp_path / "docs" / "b.html").write_text("<p>Rain fell.</p>")

    def documents() -> Iterator[Document | Skipped]:
        for document in load_documents(tmp_path / "docs"):
            yield document
            monkeypatch.setattr(extraction_process, "MAX_SECONDS", 300.0)  # on a busy machine

    report = index.add(documents())
    assert report.added == 1
    (skipped,) = report.skipped
    assert skipped.reason == "takes longer than 2 seconds to read; split it, or save it as text"


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_what_takes_too_much_memory_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction_process, "MAX_MEMORY", 64 * 2**20)
    (tmp_path / "a.html").write_text("<p>" * 300_000)
    (tmp_path / "b.html").write_text("<p>Rain fell.</p>")
    first, second = load_documents(tmp_path)
    assert isinstance(first, Skipped)
    assert "memory" in first.reason
    assert isinstance(second, Document)


def test_nested_preformatted_text_stays_as_it_is() -> None:
    source = "<pre>" * 400 + "<br>  x" * 400
    assert extract(source.encode(), ".html").text.count("  x") >= 399


def test_a_reader_that_dies_is_replaced(process: ExtractionProcess, tmp_path: Path) -> None:
    assert process.extract(b"<p>one", ".html").text == "one"
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait()
    assert process.extract(b"<p>two", ".html").text == "two"


def test_threads_take_turns(process: ExtractionProcess) -> None:
    results: dict[int, Extracted] = {}

    def read(number: int) -> None:
        results[number] = process.extract(f"<p>{number}".encode() * 50, ".html")

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(found.text.split()) == {str(i)} for i, found in results.items())


def test_the_process_ends_with_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf("One"))
    with DocumentReader() as reader:
        reader.load(tmp_path / "a.pdf")
        process = reader._process._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


def test_no_code_of_the_current_folder_runs(tmp_path: Path) -> None:
    (tmp_path / "bs4.py").write_text("open('ran', 'w')")
    (tmp_path / "json.py").write_text("open('ran', 'w')")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.html").write_text("<p>Rain fell.")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "sys.path = [p for p in sys.path if p]\n"
        "from refrag_components.text.documents import load_documents\n"
        "print([d.text for d in load_documents('docs')])"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Rain fell." in result.stdout
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def index(tmp_path: Path, model: FakeModel) -> Iterator[RefragIndex]:
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8) as index:
        yield index
