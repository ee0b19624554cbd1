from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from refrag_components.index import RefragIndex, index_info
from refrag_components.modeling import RefragModel
from refrag_components.stores import SQLiteStore
from refrag_components.vectors.codecs import CODECS
from tests.cli.conftest import Run
from tests.fake_model import FakeModel
from tests.made_files import pdf


def test_a_folder_is_indexed_and_what_was_done_is_told(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    result = refrag("index", docs, "--out", tmp_path / "index", "--model", tiny_folder)
    assert result.exit_code == 0
    assert "2 added, 0 updated, 0 unchanged, 0 removed, 0 files skipped" in result.stdout
    counts = re.search(r"2 documents, 2 passages, (\d+) chunks, (\d+) tokens, ", result.stdout)
    assert counts is not None
    assert 4 * (int(counts[1]) - 2) < int(counts[2]) <= 4 * int(counts[1])
    assert "built from" not in result.stderr
    assert (tmp_path / "index" / "meta.json").is_file()


def test_running_again_does_only_what_is_new(
    refrag: Run, docs: Path, index: Path, tiny_folder: Path
) -> None:
    (docs / "harbour.md").write_text("The harbour of Eastport was dug in 1908.")
    (docs / "lighthouse.txt").unlink()
    (docs / "market.html").write_text("<p>The fish market opens at five in the morning.</p>")
    result = refrag("index", docs, "--out", index, "--model", tiny_folder)
    assert "1 added, 1 updated, 0 unchanged, 1 removed" in result.stdout
    (docs / "image.txt").write_bytes(b"\0")
    result = refrag("index", docs, "--out", index, "--model", tiny_folder)
    assert "2 unchanged, 0 removed, 1 file skipped" in result.stdout
    (docs / "image.txt").unlink()
    result = refrag("index", docs, "--out", index, "--model", tiny_folder)
    assert "0 added, 0 updated, 2 unchanged, 0 removed" in result.stdout


def test_skipped_files_are_grouped_by_reason(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (docs / "a.txt").write_bytes(b"\0\1\2")
    (docs / "b.txt").write_bytes(b"\0\1\2\3")
    (docs / "empty.md").write_text(" \n")
    result = refrag("index", docs, "--out", tmp_path / "index", "--model", tiny_folder)
    assert result.exit_code == 0
    assert "3 files skipped" in result.stdout
    skipped = [line for line in result.stderr.splitlines() if line.startswith("Skipped")]
    assert len(skipped) == 2
    assert skipped[0].startswith(f"Skipped: {docs / 'a.txt'} ")
    assert skipped[0].endswith("(1 more .txt)")
    assert "empty.md" in skipped[1]


def test_skipped_files_are_counted_by_suffix_with_what_to_do(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.PNG", "c.png", "d.mp4", "noext"):
        (docs / name).write_bytes(b"\0")
    (docs / "old.txt").write_bytes("Le port a été creusé en 1907.".encode("cp1252"))
    result = refrag("index", docs, "--out", tmp_path / "index", "--model", tiny_folder)
    lines = result.stderr.splitlines()
    skipped = [line for line in lines if line.startswith("Skipped")]
    assert skipped == [
        f"Skipped: {docs / 'a.png'} is of a type that is not read (.png); --exclude '*.png' leaves "
        "them out (2 more .png)",
        f"Skipped: {docs / 'd.mp4'} is of a type that is not read (.mp4); --exclude '*.mp4' leaves "
        "them out",
        f"Skipped: {docs / 'noext'} is of a type that is not read (no suffix); name it .txt if it "
        "is text",
    ]
    assert any(line.startswith("Doubtful: ") and "save it as UTF-8" in line for line in lines)
    assert "--verbose names every skipped file, --report FILE writes them down" in lines


def test_a_report_that_cannot_be_written_is_told_before_the_model_loads(
    refrag: Run, docs: Path, tmp_path: Path
) -> None:
    report = tmp_path / "nowhere" / "report.tsv"
    result = refrag("index", docs, "--report", report, "--model", "no-such-model")
    assert result.exit_code == 1
    assert "nowhere is not a folder; make it first" in result.stderr


def test_names_of_files_send_no_commands_to_the_terminal(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (docs / "a\x1b[2J.png").write_bytes(b"\0")
    options = ("--out", tmp_path / "index", "--model", tiny_folder)
    for verbose in ((), ("--verbose",)):
        assert "\x1b" not in refrag("index", docs, *options, *verbose).output


def test_passages_are_as_long_as_asked(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    result = refrag(
        "index", docs, "--out", tmp_path / "i", "--model", tiny_folder, "--passage-tokens", 16
    )
    assert "2 documents, 2 passages" not in result.stdout


def test_chunk_vectors_are_stored_as_asked(
    refrag: Run, docs: Path, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "small", "--model", tiny_folder, "--codec", "rotated4")
    assert refrag("index", docs, *options).exit_code == 0
    assert index_info(tmp_path / "small").codec == "rotated4"
    folders = (tmp_path / "small", index)
    small, usual = (SQLiteStore(folder / "store.sqlite") for folder in folders)
    with small, usual:
        for key in usual.yield_keys():
            (read,), (exact,) = small.mget([key]), usual.mget([key])
            assert read is not None
            assert exact is not None
            assert 0 < np.abs(read.vectors - exact.vectors).max() < np.abs(exact.vectors).max()
    again = refrag("index", docs, "--out", tmp_path / "small", "--model", "no-such-model")
    assert again.exit_code == 1
    assert "an index with codec rotated4" in again.stderr


def test_every_codec_can_be_asked_for(refrag: Run, docs: Path, tmp_path: Path) -> None:
    told = refrag("index", "--help").stdout
    assert all(codec in told for codec in CODECS)
    assert refrag("index", docs, "--codec", "int4").exit_code == 2


def test_a_store_of_the_users_is_told_its_codec_in_its_url(
    refrag: Run, docs: Path, tmp_path: Path
) -> None:
    options = ("--store", tmp_path / "store.sqlite", "--codec", "int8", "--model", "no-such-model")
    result = refrag("index", docs, "--out", tmp_path / "index", *options)
    assert result.exit_code == 1
    assert "?codec=int8" in result.stderr


def test_a_missing_folder_is_told_before_the_model_loads(refrag: Run, tmp_path: Path) -> None:
    result = refrag("index", tmp_path / "nowhere", "--model", "no-such-model")
    assert result.exit_code == 1
    assert "nowhere does not exist" in result.stderr


def test_a_folder_without_readable_files_is_told_before_the_model_loads(
    refrag: Run, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "image.png").touch()
    result = refrag("index", tmp_path / "docs", "--model", "no-such-model")
    assert result.exit_code == 1
    assert "docs holds no file that can be read: text, " in result.stderr


def test_a_folder_with_other_files_is_not_taken_for_an_index(refrag: Run, docs: Path) -> None:
    result = refrag("index", docs, "--out", docs, "--model", "no-such-model")
    assert result.exit_code == 1
    assert "choose a new or empty folder" in result.stderr
    assert "Loading" not in result.stderr


def test_another_passage_length_is_told_before_the_model_loads(
    refrag: Run, docs: Path, index: Path
) -> None:
    options = ("--out", index, "--passage-tokens", 16, "--model", "no-such-model")
    result = refrag("index", docs, *options)
    assert result.exit_code == 1
    assert "passages of at most 256 tokens" in result.stderr


def test_the_index_remembers_its_model(
    refrag: Run, docs: Path, index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    assert refrag("index", docs, "--out", index, "--model", tiny_folder.name).exit_code == 0
    monkeypatch.chdir(docs)
    assert "2 unchanged" in refrag("index", docs, "--out", index).stdout
    assert refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1).exit_code == 0
    assert str(tiny_folder) in refrag("info", index).stdout


@pytest.mark.parametrize("command", ["ask", "index"])
def test_a_model_that_has_moved_can_be_named(
    refrag: Run, docs: Path, tmp_path: Path, command: str
) -> None:
    place, index = tmp_path / "gone", tmp_path / "index"
    RefragIndex.create(index, FakeModel(), model_name=str(place)).close()
    arguments = {"ask": (index, "When?"), "index": (docs, "--out", index)}[command]
    result = refrag(command, *arguments)
    assert result.exit_code == 1
    made = f"Error: {index} was made with {place}, which cannot be loaded"
    assert made in result.stderr and "--model" in result.stderr


def test_pdfs_are_indexed_without_pypdfs_remarks(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (docs / "odd.pdf").write_bytes(pdf("The harbour.").replace(b"startxref\n", b"startxref\n9"))
    with caplog.at_level(logging.WARNING):
        result = refrag("index", docs, "--out", tmp_path / "index", "--model", tiny_folder)
    assert "3 added" in result.stdout
    assert not [record for record in caplog.records if record.name.startswith("pypdf")]


def test_several_folders_and_single_files_go_into_one_index(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "drafts").mkdir(parents=True)
    (other / "drafts" / "b.txt").write_text("A draft.")
    (other / "a.txt").write_text("The mole is of granite.")
    (tmp_path / "README").write_text("About the ports.")
    index = tmp_path / "index"
    options = ("--out", index, "--model", tiny_folder, "--exclude", "drafts")
    result = refrag("index", docs, other, tmp_path / "README", *options)
    assert "4 added" in result.stdout
    listed = refrag("info", index, "--documents").stdout.split()
    assert sorted(Path(path).name for path in listed) == [
        "README", "a.txt", "harbour.md", "lighthouse.txt",
    ]  # fmt: skip


def test_every_skipped_and_doubtful_file_can_be_listed(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (docs / name).write_bytes(b"\0")
    (docs / "old.txt").write_bytes("Le port a été creusé en 1907.".encode("cp1252"))
    report = tmp_path / "report.tsv"
    options = ("--out", tmp_path / "index", "--model", tiny_folder)
    result = refrag("index", docs, *options, "--verbose", "--report", report)
    assert "3 files skipped, 1 doubtful" in result.stdout
    assert result.stderr.count("Skipped: ") == 3
    assert "old.txt was read as cp1252" in result.stderr
    lines = [line.split("\t") for line in report.read_text().splitlines()]
    assert [Path(path).name for path, _ in lines] == ["a.png", "b.png", "c.png", "old.txt"]
    assert lines[0][1] == "is of a type that is not read (.png)"


def test_the_last_document_can_go(refrag: Run, docs: Path, index: Path) -> None:
    for path in docs.iterdir():
        path.unlink()
    result = refrag("index", docs, "--out", index)
    assert "2 removed" in result.stdout
    assert refrag("info", index, "--documents").stdout == ""


@pytest.mark.parametrize(
    ("owner", "step"), [(RefragIndex, "add_folder"), (RefragModel, "from_pretrained")]
)
def test_a_stopped_run_says_how_to_go_on(
    refrag: Run,
    docs: Path,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, stop)
        result = refrag("index", docs, "--out", index)
    assert result.exit_code == 130
    assert "run the same command to continue" in result.stderr
    assert "2 unchanged" in refrag("index", docs, "--out", index).stdout
