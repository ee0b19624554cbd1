"""An empty index of a model without weights, and a folder of documents for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refrag_components.index import RefragIndex
from tests.fake_model import FakeModel


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def index(tmp_path: Path, model: FakeModel) -> Iterator[RefragIndex]:
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8) as index:
        yield index


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "harbour.txt").write_text("The harbour was dug in 1907.\n\nIt lies north of town.")
    (folder / "rain.md").write_text("Rain fell on the mountain for three days.")
    (folder / "list.html").write_text("<p>A generator yields values one by one.</p>")
    return folder
