from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.index import AddReport, RefragIndex
from refrag_components.index.forecast import Forecast
from tests.fake_model import FakeModel


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    sizes = {"a.txt": 100, "b.txt": 300, "c.md": 1000, "d.png": 5000, "e.txt": 200}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    return [tmp_path / name for name in sizes]


def test_files_are_expected_to_be_like_those_of_their_type(files: list[Path]) -> None:
    forecast = Forecast(files, ())
    assert forecast.ahead == 0
    forecast.note(str(files[0]), 2)
    assert forecast.ahead == 2 / 100 * (300 + 1000 + 200)  # pictures come to nothing
    forecast.note(str(files[2]), 5)
    assert forecast.ahead == 2 / 100 * (300 + 200)
    forecast.note(str(files[1]), 2)
    assert forecast.ahead == 4 / 400 * 200
    forecast.note(str(files[4]))
    assert forecast.ahead == 0


def test_what_is_indexed_is_expected_to_be_as_it_was(files: list[Path]) -> None:
    forecast = Forecast(files, {str(files[1]), str(files[2])})
    forecast.note(str(files[0]), 2)
    assert forecast.ahead == 2 / 100 * 200


def test_a_file_that_is_gone_is_no_mistake(tmp_path: Path) -> None:
    assert Forecast([tmp_path / "gone.txt"], ()).ahead == 0


def test_the_index_says_what_it_expects(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(f"Note {number}: the harbour was dug in 1907.")
    seen: list[tuple[int, int]] = []

    def note(report: AddReport) -> None:
        seen.append((report.passages, report.expected))

    with RefragIndex.create(tmp_path / "index", FakeModel()) as index:
        report = index.add_folder(folder, batch_size=2, progress=note)
        assert index.add_folder(folder).expected == 0
    assert report.passages == report.expected == 40
    assert seen[0][0] == 4 and 36 <= seen[0][1] <= 44
    assert all(passages <= expected for passages, expected in seen)
