from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from refrag_components.exceptions import FingerprintMismatchError, IndexFolderError
from refrag_components.index import AddReport, RefragIndex, index_info
from tests.fake_model import FakeModel, check


def test_opens_again(index: RefragIndex, model: FakeModel, docs: Path) -> None:
    index.add_folder(docs)
    expected = index.search("harbour")
    index.close()
    with RefragIndex.open(index.folder, model) as opened:
        assert opened.search("harbour") == expected
        check(opened, model)


def test_create_continues_with_what_is_there(
    index: RefragIndex, model: FakeModel, docs: Path
) -> None:
    index.add_folder(docs)
    with RefragIndex.create(index.folder, model, passage_tokens=8) as again:
        assert again.add_folder(docs) == AddReport(unchanged=3)
    with pytest.raises(IndexFolderError, match=r"codec float16 .* at most 8 tokens"):
        RefragIndex.create(index.folder, model)
    with pytest.raises(IndexFolderError, match="codec float16"):
        RefragIndex.create(index.folder, model, codec="int8", passage_tokens=8)


def test_info(index: RefragIndex, docs: Path) -> None:
    index.add_folder(docs)
    info = index.info()
    assert info == index_info(index.folder)
    assert (info.fingerprint, info.chunk_size, info.codec) == ("f00d", 4, "float16")
    assert (info.documents, info.passages, info.passage_tokens) == (3, 4, 8)
    assert (info.chunks, info.tokens) == (8, 26)
    assert info.size_bytes > 4096
    assert info.model is None
    index.remove([str(docs / "rain.md")])
    assert (index.info().chunks, index.info().tokens) == (6, 18)


def test_an_empty_index_has_no_chunks(index: RefragIndex) -> None:
    info = index.info()
    assert (info.documents, info.passages, info.chunks, info.tokens) == (0, 0, 0, 0)


def test_the_models_name_is_kept_and_the_latest_counts(
    index: RefragIndex, model: FakeModel
) -> None:
    for name in ("some/model", "moved/model"):
        RefragIndex.create(index.folder, model, passage_tokens=8, model_name=name).close()
        assert index_info(index.folder).model == name
    RefragIndex.create(index.folder, model, passage_tokens=8).close()
    assert index_info(index.folder).model == "moved/model"
    with pytest.raises(FingerprintMismatchError, match=r"moved/model of fingerprint f00d"):
        RefragIndex.create(index.folder, FakeModel(fingerprint="beef"), model_name="another/model")
    assert index_info(index.folder).model == "moved/model"


def test_a_new_index_has_nothing_to_say(
    tmp_path: Path, model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), RefragIndex.create(tmp_path / "index", model) as index:
        index.add_texts(["Rain fell."])
    assert caplog.text == ""


def test_another_model_is_refused_with_both_fingerprints_and_the_fix(
    index: RefragIndex, model: FakeModel
) -> None:
    for use in (RefragIndex.open, RefragIndex.create):
        with pytest.raises(FingerprintMismatchError, match=r"f00d.*beef.*new folder"):
            use(index.folder, FakeModel(fingerprint="beef"))


def test_a_folder_without_an_index_is_refused(tmp_path: Path, model: FakeModel) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(IndexFolderError, match="no index"):
            RefragIndex.open(folder, model)
        with pytest.raises(IndexFolderError, match="no index"):
            index_info(folder)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "\0", '"format"'])
def test_a_meta_file_of_something_else_is_refused_and_kept(
    tmp_path: Path, model: FakeModel, content: str
) -> None:
    (tmp_path / "meta.json").write_text(content)
    for use in (RefragIndex.open, RefragIndex.create):
        with pytest.raises(IndexFolderError, match="does not describe an index"):
            use(tmp_path, model)
    assert (tmp_path / "meta.json").read_text() == content


def test_a_later_format_is_named(index: RefragIndex, model: FakeModel) -> None:
    path = index.folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(IndexFolderError, match=r"format 2.*update"):
        RefragIndex.open(index.folder, model)


def test_create_refuses_folders_with_other_files(tmp_path: Path, model: FakeModel) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(IndexFolderError, match=r"thesis\.txt"):
        RefragIndex.create(tmp_path, model)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(IndexFolderError, match="cannot hold an index"):
        RefragIndex.create(tmp_path / "thesis.txt" / "index", model)


def test_create_takes_empty_folders_and_what_a_killed_create_left(
    tmp_path: Path, model: FakeModel
) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / "meta.json.123").touch()
    RefragIndex.create(tmp_path, model).close()
    assert (tmp_path / "store.sqlite").exists()
    RefragIndex.open(tmp_path, model).close()


@pytest.mark.parametrize("wrong", [{"codec": "int4"}, {"passage_tokens": 0}])
def test_create_refuses_unknown_codecs_and_lengths(
    tmp_path: Path, model: FakeModel, wrong: dict
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RefragIndex.create(tmp_path / "index", model, **wrong)
    assert not (tmp_path / "index").exists()
