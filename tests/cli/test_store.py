"""``--store``: an index whose chunk vectors are in a database of the user's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from refrag_components.stores import open_store
from tests.cli.conftest import Run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"lancedb://{tmp_path / 'lance'}"


def test_an_index_finds_its_store_again(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path, url: str
) -> None:
    index = tmp_path / "index"
    result = refrag("index", docs, "--out", index, "--model", tiny_folder, "--store", url)
    assert result.exit_code == 0, result.output
    with open_store(url) as store:
        assert len(list(store.yield_keys())) == 2
    assert "2 unchanged" in refrag("index", docs, "--out", index).stdout
    result = refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1)
    assert result.exit_code == 0
    assert "Passages: 2 from the store, 0 encoded now" in result.stderr
    facts = refrag("info", index).stdout
    assert f"store           {url}" in facts
    assert "codec           the store's" in facts


def test_a_password_is_given_again_and_never_shown(
    refrag: Run, docs: Path, tiny_folder: Path, tmp_path: Path, postgres: str
) -> None:
    index, url = tmp_path / "index", postgres.replace("//postgres:@", "//postgres:s3cret@")
    outputs = [
        refrag("index", docs, "--out", index, "--model", tiny_folder, "--store", url),
        refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1, "--store", url),
        refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1),
        refrag("info", index),
    ]
    for result in outputs:
        assert result.exit_code == 0, result.output
        assert "s3cret" not in result.output
    assert "2 from the store" in outputs[1].stderr
    assert "s3cret" not in (index / "meta.json").read_text()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://user:s3cret@host", "redis:// does not name a store"),
        ("postgresql://user:s3cret@127.0.0.1:1/database", "check the server"),
        ("memory:", "give a path or a URL"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_before_the_model_loads(
    refrag: Run, docs: Path, tmp_path: Path, url: str, reason: str
) -> None:
    options = ("--out", tmp_path / "index", "--model", "no-such-model", "--store", url)
    result = refrag("index", docs, *options)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert "s3cret" not in result.output
    assert "Loading" not in result.stderr
    assert not (tmp_path / "index").exists()


def test_an_index_keeps_to_its_store(refrag: Run, docs: Path, index: Path, url: str) -> None:
    for arguments in (("index", docs, "--out", index), ("ask", index, "When?")):
        result = refrag(*arguments, "--store", url)
        assert result.exit_code == 1
        assert "its own folder; use that store" in result.stderr
        assert "Loading" not in result.stderr
    assert "store           in the folder" in refrag("info", index).stdout


@pytest.mark.parametrize("named", ["somebody/model", "folder"])
def test_a_model_that_only_the_folder_names_is_not_loaded(
    refrag: Run, index: Path, tiny_folder: Path, tmp_path: Path, named: str
) -> None:
    name = str(shutil.copytree(tiny_folder, tmp_path / "m")) if named == "folder" else named
    path = index / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": name}))
    result = refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1)
    assert result.exit_code == 1
    assert f"name it once with --model {name}" in result.stderr.replace("\n", " ")
    assert "Loading" not in result.stderr
    if named == "folder":
        for options in (("--model", name), ()):
            result = refrag("ask", index, "When was the harbour dug?", "--max-tokens", 1, *options)
            assert result.exit_code == 0, result.output


def test_a_store_that_only_the_folder_names_is_refused_before_the_model_loads(
    refrag: Run, docs: Path, index: Path, url: str
) -> None:
    path = index / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store": url}))
    for arguments in (("index", docs, "--out", index), ("ask", index, "When?")):
        result = refrag(*arguments)
        assert result.exit_code == 1
        assert "nobody has named" in result.stderr
        assert "Loading" not in result.stderr
