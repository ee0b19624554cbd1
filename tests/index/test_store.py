"""Indexes that keep their chunk vectors in a store of the user's."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from refrag_components.exceptions import IndexFolderError, StoreError
from refrag_components.index import AddReport, RefragIndex, index_info
from refrag_components.stores import MemoryStore, SQLiteStore
from refrag_components.text.documents import Document
from refrag_components.vectors import ChunkVectors, passage_key
from tests.fake_model import FakeModel, check, texts

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from refrag_components.index import RefragIndex
from tests.fake_model import FakeModel
model = FakeModel()
with RefragIndex.create(sys.argv[1], model, passage_tokens=8, store=sys.argv[3]) as index:
    show = lambda report: print(report.passages, flush=True)
    index.add_folder(sys.argv[2], batch_size=1, progress=show)
"""


class FailingStore(MemoryStore):
    """Is killed, or loses its server, in the middle of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: BaseException | None = None

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        if self.fails:
            raise self.fails
        super().mset(pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        if self.fails:
            raise self.fails
        super().mdelete(keys)


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def user_index(tmp_path: Path, model: FakeModel, store: FailingStore) -> RefragIndex:
    return RefragIndex.create(tmp_path / "index", model, passage_tokens=8, store=store)


def test_chunk_vectors_are_kept_there_and_documents_in_the_folder(
    user_index: RefragIndex, store: FailingStore, model: FakeModel, docs: Path
) -> None:
    assert user_index.add_folder(docs) == AddReport(added=3, passages=4)
    assert user_index.store is store
    check(user_index, model)
    connection = sqlite3.connect(user_index.folder / "store.sqlite")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "passages" in tables
    assert "chunk_vectors" not in tables
    (docs / "rain.md").unlink()
    (docs / "harbour.txt").write_text("The harbour was dug in 1908.")
    assert user_index.add_folder(docs) == AddReport(updated=1, unchanged=1, removed=1, passages=1)
    check(user_index, model)


def test_a_store_that_was_passed_has_to_be_passed_again(
    user_index: RefragIndex, store: FailingStore, model: FakeModel
) -> None:
    user_index.add_texts(["Rain fell."])
    assert (user_index.info().store, user_index.info().codec) == ("given", None)
    with pytest.raises(IndexFolderError, match="pass it again"):
        RefragIndex.open(user_index.folder, model)
    with pytest.raises(IndexFolderError, match="pass it again"):
        RefragIndex.create(user_index.folder, model, passage_tokens=8)
    with RefragIndex.open(user_index.folder, model, store=store) as opened:
        check(opened, model)
    assert store.mget([passage_key("Rain fell.", model.fingerprint)]) != [None]


def test_a_url_is_remembered(tmp_path: Path, model: FakeModel, docs: Path) -> None:
    url = f"lancedb://{tmp_path / 'lance'}?table=vectors"
    with RefragIndex.create(tmp_path / "index", model, store=url) as index:
        index.add_folder(docs)
        check(index, model)
    assert index_info(index.folder).store == url
    for opened in (
        RefragIndex.open(index.folder, model),
        RefragIndex.open(index.folder, model, store=url),
        RefragIndex.create(index.folder, model),
        RefragIndex.create(index.folder, model, store=url),
    ):
        with opened:
            assert opened.add_folder(docs) == AddReport(unchanged=3)
            check(opened, model)


def test_a_path_means_the_same_wherever_the_index_is_opened(
    tmp_path: Path, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with RefragIndex.create("index", model, store="vectors.sqlite") as index:
        index.add_texts(["Rain fell."])
    monkeypatch.chdir("/")
    with RefragIndex.open(tmp_path / "index", model) as index:
        check(index, model)
    with pytest.raises(StoreError, match="closed"):
        index.store.mget([])
    with SQLiteStore(tmp_path / "vectors.sqlite") as store:
        assert len(list(store.yield_keys())) == 1


def test_the_password_is_not_remembered(tmp_path: Path, model: FakeModel, postgres: str) -> None:
    url = postgres.replace("//postgres:@", "//postgres:s3cret@") + "&password=s3cret"
    with RefragIndex.create(tmp_path / "index", model, store=url) as index:
        index.add_texts(["Rain fell."])
    for file in index.folder.iterdir():
        assert b"s3cret" not in file.read_bytes()
    assert str(index.info().store).startswith("postgresql://postgres@/postgres?")
    for again in (None, url, postgres):
        with RefragIndex.open(index.folder, model, store=again) as opened:
            check(opened, model)


def test_an_index_keeps_to_its_store(tmp_path: Path, model: FakeModel, index: RefragIndex) -> None:
    url, other = (f"sqlite://{tmp_path / name}" for name in ("a.sqlite", "b.sqlite"))
    RefragIndex.create(tmp_path / "user", model, store=url).close()
    for use in (RefragIndex.open, RefragIndex.create):
        with pytest.raises(IndexFolderError, match=r"a\.sqlite; use that store"):
            use(tmp_path / "user", model, store=other)
    for store in (url, MemoryStore()):
        with pytest.raises(IndexFolderError, match="its own folder; use that store"):
            RefragIndex.open(index.folder, model, store=store)


def test_a_url_that_leads_nowhere_is_not_remembered(tmp_path: Path, model: FakeModel) -> None:
    for url in ("nowhere://", "lancedb://host/path", "memory:", "postgresql://u:s@127.0.0.1:1/d"):
        with pytest.raises(StoreError):
            RefragIndex.create(tmp_path / "index", model, store=url)
    assert not (tmp_path / "index").exists()


def test_meta_files_of_before_there_were_stores_are_read(
    index: RefragIndex, model: FakeModel
) -> None:
    path = index.folder / "meta.json"
    content = json.loads(path.read_text())
    del content["store"]
    path.write_text(json.dumps(content))
    with RefragIndex.open(index.folder, model) as opened:
        assert opened.info().store is None


# -- crashes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StoreError("the server is gone")])
def test_what_could_not_be_deleted_is_deleted_later(
    user_index: RefragIndex, store: FailingStore, model: FakeModel, failure: BaseException
) -> None:
    user_index.add([Document("a", "Rain fell."), Document("b", "Hail fell.")])
    store.fails = failure
    with pytest.raises(type(failure)):
        user_index.remove(["a"])
    assert texts(user_index) == ["Hail fell."]
    assert len(store) == 2
    store.fails = None
    user_index.add([])
    check(user_index, model)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StoreError("the server is gone")])
def test_a_document_whose_vectors_could_not_be_stored_is_not_added(
    user_index: RefragIndex, store: FailingStore, model: FakeModel, failure: BaseException
) -> None:
    user_index.add([Document("a", "Rain fell.")])
    store.fails = failure
    with pytest.raises(type(failure)):
        user_index.add([Document("a", "Snow fell."), Document("b", "Hail fell.")])
    assert texts(user_index) == ["Rain fell."]
    store.fails = None
    report = user_index.add([Document("a", "Snow fell."), Document("b", "Hail fell.")])
    assert report == AddReport(added=1, updated=1, passages=2)
    check(user_index, model)


def test_what_is_needed_again_is_not_deleted_late(
    user_index: RefragIndex, store: FailingStore, model: FakeModel
) -> None:
    user_index.add([Document("a", "Rain fell.")])
    store.fails = StoreError("the server is gone")
    with pytest.raises(StoreError):
        user_index.remove(["a"])
    store.fails = None
    user_index.add([Document("b", "Rain fell.")])
    assert model.encoded == ["Rain fell."]
    check(user_index, model)


def start(folder: Path, docs: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), str(docs), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("kind", ["lancedb", "postgres"])
def test_a_killed_indexer_continues_where_it_stopped(
    tmp_path: Path, model: FakeModel, request: pytest.FixtureRequest, kind: str
) -> None:
    lance = f"lancedb://{tmp_path / 'lance'}"
    url = lance if kind == "lancedb" else request.getfixturevalue("postgres")
    docs, folder = tmp_path / "docs", tmp_path / "index"
    docs.mkdir()
    for i in range(40):
        (docs / f"{i:02}.txt").write_text(f"The short document number {i}.")
    for passages in (4, 16):  # encoded before the kill
        worker = start(folder, docs, url)
        assert worker.stdout is not None
        next((line for line in worker.stdout if int(line) >= passages), None)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.wait() in (-signal.SIGKILL, 0)  # where the machine is busy, it was done
        (docs / "00.txt").write_text(f"The short document of {passages} that changes.")
    worker = start(folder, docs, url)
    worker.communicate()
    assert worker.returncode == 0
    with RefragIndex.open(folder, model) as index:
        assert len(texts(index)) == 40
        connection = sqlite3.connect(folder / "store.sqlite")
        with connection:
            connection.execute("UPDATE awaited SET since = since - 7200")
        connection.close()
        assert index.add_folder(docs) == AddReport(unchanged=40)
        check(index, model)
