from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_a_folder_is_indexed_and_what_was_done_is_told(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    result = refrag("index", docs, "--out", tmp_path / "index", "--model", tiny_folder)
    assert result.exit_code == 0
    assert "2 added, 0 updated, 0 unchanged, 0 removed, 0 files skipped" in result.stdout
    assert "2 documents, 2 passages" in result.stdout
    assert (tmp_path / "index" / "meta.json").is_file()


def test_running_again_does_only_what_is_new(
    refrag: Run, docs: Path, index: Path, tiny_folder: Path
) -> None:
    (docs / "harbour.md").write_text("The harbour of Eastport was dug in 1908.")
    (docs / "lighthouse.txt").unlink()
    (docs / "market.html").write_text("<p>The fish market opens at five in the morning.</p>")
    result = refrag("index", docs, "--out", index, "--model", tiny_folder)
    assert "1 added, 1 updated, 0 unchanged, 1 removed" in result.stdout
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
    assert skipped[0].endswith("(1 more like it)")
    assert "empty.md" in skipped[1]


def test_passages_are_as_long_as_asked(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    result = refrag(
        "index", docs, "--out", tmp_path / "i", "--model", tiny_folder, "--passage-tokens", 16
    )
    assert "2 documents, 2 passages" not in result.stdout


def test_a_missing_folder_is_told_before_the_model_loads(refrag: Run, tmp_path: Path) -> None:
    result = refrag("index", tmp_path / "nowhere", "--model", "no-such-model")
    assert result.exit_code == 1
    assert "nowhere does not exist" in result.stderr


def test_a_folder_with_other_files_is_not_taken_for_an_index(
    refrag: Run, docs: Path, tiny_folder: Path
) -> None:
    result = refrag("index", docs, "--out", docs, "--model", tiny_folder)
    assert result.exit_code == 1
    assert "choose a new or empty folder" in result.stderr
