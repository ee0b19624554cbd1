from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from refrag_components.exceptions import DocumentError, EmptyInputError, InvalidVectorsError
from refrag_components.index import AddReport, RefragIndex
from refrag_components.modeling import RefragModel
from refrag_components.text.documents import Document, Skipped, load_documents
from refrag_components.vectors import passage_key
from tests.fake_model import FakeModel, check, texts


def test_finds_what_was_added(index: RefragIndex, model: FakeModel, docs: Path) -> None:
    report = index.add_folder(docs)
    assert report == AddReport(added=3, passages=4)
    first, second = index.search("when was the harbour dug", k=2)
    assert first.text == "The harbour was dug in 1907."
    assert first.source == str(docs / "harbour.txt")
    assert first.key == passage_key(first.text, model.fingerprint)
    assert first.metadata == {}
    assert 1.0001 > first.score > second.score > -1
    assert index.store.mget([first.key]) == [model.encode(first.text)]
    check(index, model)


def test_add_takes_what_load_documents_gives(index: RefragIndex, docs: Path) -> None:
    (docs / "image.png").write_bytes(b"\x89PNG")
    report = index.add(load_documents(docs))
    assert (report.added, len(report.skipped)) == (3, 1)


def test_a_second_run_has_nothing_to_do(
    index: RefragIndex, model: FakeModel, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add_folder(docs)
    encoded = len(model.encoded)
    monkeypatch.setattr(
        "refrag_components.text.documents._extracted",
        lambda *_: pytest.fail("a file was read again"),
    )
    assert index.add_folder(docs) == AddReport(unchanged=3)
    assert len(model.encoded) == encoded
    check(index, model)


def test_a_changed_document_replaces_its_passages(
    index: RefragIndex, model: FakeModel, docs: Path
) -> None:
    index.add_folder(docs)
    encoded = len(model.encoded)
    (docs / "harbour.txt").write_text("The harbour was dug in 1908.\n\nIt lies north of town.")
    report = index.add_folder(docs)
    assert report == AddReport(updated=1, unchanged=2, passages=2)
    assert model.encoded[encoded:] == ["The harbour was dug in 1908."]
    assert "The harbour was dug in 1907." not in texts(index)
    check(index, model)


def test_a_passage_that_moves_to_another_document_keeps_its_vectors(
    index: RefragIndex, model: FakeModel, docs: Path
) -> None:
    index.add_folder(docs)
    (docs / "harbour.txt").write_text("The harbour was dug in 1907.")
    (docs / "town.txt").write_text("It lies north of town.")
    index.add_folder(docs)
    check(index, model)


def test_documents_of_removed_and_broken_files_are_removed(
    index: RefragIndex, model: FakeModel, docs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "docs2"
    other.mkdir()
    (other / "a.txt").write_text("Another folder stays.")
    index.add_folder(docs)
    index.add_folder(other)
    (docs / "rain.md").unlink()
    (docs / "list.html").write_bytes(b"\0")
    report = index.add_folder(docs)
    assert (report.unchanged, report.removed, len(report.skipped)) == (1, 2, 1)
    assert texts(index) == [
        "Another folder stays.",
        "It lies north of town.",
        "The harbour was dug in 1907.",
    ]
    check(index, model)


def test_removes_documents(index: RefragIndex, model: FakeModel, docs: Path) -> None:
    index.add_folder(docs)
    assert index.remove([str(docs / "harbour.txt"), "unknown"]) == 1
    assert len(texts(index)) == 2
    check(index, model)
    assert index.remove([str(docs / "rain.md"), str(docs / "list.html")]) == 2
    assert index.search("harbour") == []
    assert list(index.store.yield_keys()) == []


def test_adds_texts(index: RefragIndex, model: FakeModel) -> None:
    added = index.add_texts(
        ["Rain fell.", "Snow fell."], [{"source": "weather", "page": 1}, {"page": 2}]
    )
    assert added == AddReport(added=2, passages=2)
    rain, snow = index.search("rain", k=2)
    assert (rain.source, rain.metadata) == ("weather", {"source": "weather", "page": 1})
    assert snow.source.startswith("text:")
    again = index.add_texts(iter(["Snow fell.", "Hail fell."]))
    assert (again.added, again.unchanged) == (2, 0)
    assert index.add_texts(["Snow fell.", "Snow fell."], [{"page": 2}] * 2).unchanged == 2
    with pytest.raises(ValueError, match="shorter"):
        index.add_texts(["a", "b"], [{}])


def test_the_same_passage_in_two_documents_is_encoded_once(
    index: RefragIndex, model: FakeModel
) -> None:
    index.add([Document("a", "Rain fell."), Document("b", "Rain fell.")])
    index.add([Document("c", "Rain fell.")])
    assert model.encoded == ["Rain fell."]
    (hit,) = index.search("rain")
    assert (hit.source, hit.sources) == ("a", ("a", "b", "c"))
    index.remove(["a"])
    assert len(list(index.store.yield_keys())) == 1
    check(index, model)


def test_the_same_document_twice_in_one_call_counts_once(index: RefragIndex) -> None:
    report = index.add([Document("a", "One."), Document("a", "One."), Document("a", "Two.")])
    assert (report.added, report.unchanged, report.updated) == (1, 1, 1)
    assert texts(index) == ["Two."]


def test_a_document_without_text_has_no_passages(index: RefragIndex) -> None:
    assert index.add([Document("a", " \n ")]) == AddReport(added=1)
    assert index.add([Document("a", " \n ")]) == AddReport(unchanged=1)
    assert index.search("anything") == []


def test_half_characters_are_replaced(index: RefragIndex, model: FakeModel) -> None:
    document = Document("broken \udcff name", "broken \ud835 text", {"title": "\ud835"})
    assert index.add([document]).added == 1
    assert index.add([document]).unchanged == 1
    assert texts(index) == ["broken \ufffd text"]
    assert index.search("broken \ud835", k=1)[0].source == "broken \ufffd name"
    check(index, model)
    assert index.remove([document.path]) == 1


def test_metadata_comes_back_as_json_has_it(index: RefragIndex) -> None:
    day = datetime(2024, 2, 29, 12, 30)
    metadata = {"day": day, "file": Path("a/b"), "page": np.int64(3), "tags": ("x", "y")}
    index.add_texts(["Rain fell."], [metadata])
    (hit,) = index.search("rain")
    plain = {"day": "2024-02-29T12:30:00", "file": "a/b", "page": 3, "tags": ["x", "y"]}
    assert hit.metadata == plain
    assert index.add_texts(["Rain fell."], [metadata]).unchanged == 1
    assert index.add_texts(["Rain fell."], [plain]).unchanged == 1


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), {("a", "b"): 1}])
def test_metadata_that_json_cannot_hold_is_refused_before_anything_is_encoded(
    index: RefragIndex, model: FakeModel, value: object
) -> None:
    with pytest.raises(DocumentError, match="metadata of a text cannot be kept"):
        index.add_texts(["Rain fell.", "Snow fell."], [{}, {"value": value}])
    assert model.encoded == []


def test_long_documents_are_split_and_passages_encoded_in_batches(
    index: RefragIndex, model: FakeModel
) -> None:
    long = "\n\n".join(f"Paragraph number {i} has exactly seven words." for i in range(50))
    reports: list[int] = []
    index.add(
        [Document("short", "Short."), Document("long", long), Document("last", "Last.")],
        batch_size=8,
        progress=lambda report: reports.append(report.passages),
    )
    assert model.batches == [16, 16, 16, 3, 1]
    assert reports == [16, 32, 48, 51, 51, 52, 52]
    check(index, model)


def test_progress_ends_with_everything(index: RefragIndex, docs: Path) -> None:
    seen: list[tuple[int, int]] = []
    (docs / "a.bin").touch()
    index.add_folder(docs, progress=lambda r: seen.append((r.added, len(r.skipped))))
    assert seen[-1] == (3, 1)


def test_a_folder_without_readable_files_is_reported(index: RefragIndex, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(DocumentError, match=r"docs holds no file .*PDF"):
        index.add_folder(tmp_path / "docs")
    (tmp_path / "docs" / "a.png").touch()
    with pytest.raises(
        DocumentError,
        match=r"1 skipped, the first: .*a\.png is of a type that is not read \(\.png\)",
    ):
        index.add_folder(tmp_path / "docs")
    with pytest.raises(DocumentError, match="does not exist"):
        index.add_folder(tmp_path / "nowhere")


def test_a_skipped_file_that_was_never_indexed_removes_nothing(index: RefragIndex) -> None:
    assert index.add([Skipped("a", "is binary")]).removed == 0


def test_refuses_empty_questions_and_k_below_one(index: RefragIndex) -> None:
    for question in ("", " \n"):
        with pytest.raises(EmptyInputError, match="question is empty"):
            index.search(question)
    with pytest.raises(ValueError, match="k must be"):
        index.search("rain", k=0)


def test_refuses_batches_without_passages(index: RefragIndex) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        index.add_texts(["Rain fell."], batch_size=0)


def test_refuses_search_vectors_that_are_not_finite(
    index: RefragIndex, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "search_vectors", lambda texts: np.full((len(texts), 4), np.nan))
    with pytest.raises(InvalidVectorsError, match="finite"):
        index.add_texts(["Rain fell."])
    assert texts(index) == []


def test_works_with_a_refrag_model(tmp_path: Path, tiny_model: RefragModel) -> None:
    passages = ["The harbour was dug in 1907.", "Rain fell on the mountain for three days."]
    with RefragIndex.create(tmp_path / "index", tiny_model) as index:
        index.add_texts(passages)
        (hit,) = index.search(passages[1], k=1)
        assert hit.text == passages[1]
        assert hit.score == pytest.approx(1.0, abs=1e-4)
        assert index.store.mget([hit.key]) == tiny_model.encode_passages([hit.text])
        index.add([Document("again", passages[0])])
        assert [len(hit.sources) for hit in index.search(passages[0], k=5)] == [2, 1]


@pytest.mark.parametrize(
    "version",
    [
        "refrag_components.text.documents.READER_VERSION",
        "refrag_components.index.writing.PASSAGES_VERSION",
    ],
)
def test_a_better_reader_reads_again(
    index: RefragIndex, docs: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    index.add_folder(docs)
    monkeypatch.setattr(version, 1_000_000)
    assert index.add_folder(docs).updated == 3
    assert index.add_folder(docs).unchanged == 3


def test_the_title_of_a_document_is_found_and_read_with_its_passages(index: RefragIndex) -> None:
    index.add([Document("a", "One two three four five. Six seven eight nine.", title="Tides")])
    assert all(hit.text.startswith("Tides\n\n") for hit in index.search("Tides"))


def test_comments_in_code_are_no_headings(index: RefragIndex, docs: Path) -> None:
    (docs / "tide.py").write_text("# Twice a day.\n" + "\n".join(f"x{i} = {i}" for i in range(20)))
    index.add_folder(docs)
    found = [hit.text for hit in index.search("x1 x2", k=50) if hit.source.endswith("tide.py")]
    assert len(found) > 2
    assert all(text.startswith("tide.py\n\n") for text in found)
    assert sum("Twice a day" in text for text in found) == 1
