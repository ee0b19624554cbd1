"""An index folder from somebody else leads nowhere unless the user says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

from refrag_components.exceptions import IndexFolderError, StoreError
from refrag_components.index import RefragIndex, index_info
from refrag_components.index.consent import has_agreed, record_agreement
from refrag_components.index.search import _digest
from refrag_components.stores import open_store
from refrag_components.vectors import passage_key
from tests.fake_model import FakeModel, check


class Listener:
    """A server that hears who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.heard: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    self.heard.append(connection.recv(4096))
                except OSError:
                    self.heard.append(b"")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def foreign(index: RefragIndex) -> Path:
    """An index that somebody else made."""
    index.add_texts(["Rain fell."])
    index.close()
    return index.folder


def name_store(folder: Path, url: str) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store": url}))


@pytest.mark.parametrize(
    "url", ["qdrant://127.0.0.1:{}/c", "milvus://127.0.0.1:{}/c", "postgresql://127.0.0.1:{}/d"]
)
def test_a_host_that_only_the_folder_names_hears_nothing(
    foreign: Path, model: FakeModel, listener: Listener, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    for secret in ("QDRANT_API_KEY", "MILVUS_TOKEN", "PGPASSWORD"):
        monkeypatch.setenv(secret, "s3cret")
    name_store(foreign, url.format(listener.port))
    for use in (RefragIndex.open, lambda *a: RefragIndex.create(*a, passage_tokens=8)):
        with pytest.raises(IndexFolderError, match="nobody has named"):
            use(foreign, model)
    assert index_info(foreign).store == url.format(listener.port)
    assert listener.heard == []


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def embedded_qdrant(folder: Path, point: object) -> str:
    """A folder of Qdrant's embedded client with one more pickle in it; returns its URL."""
    url = f"qdrant://{folder}"
    with open_store(url) as store:
        made = FakeModel().encode("Rain fell.")
        store.mset([(passage_key("Rain fell.", made.fingerprint), made)])
    (path,) = folder.rglob("storage.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        values = ("x", pickle.dumps(point))
        connection.execute("INSERT INTO points (id, point) VALUES (?, ?)", values)
    return url


def test_pickled_files_run_no_code_even_if_the_user_names_them(
    foreign: Path, model: FakeModel, tmp_path: Path
) -> None:
    url = embedded_qdrant(tmp_path / "q", Code(tmp_path / "ran"))
    name_store(foreign, url)
    with pytest.raises(IndexFolderError, match="pickled"):
        RefragIndex.open(foreign, model)
    record_agreement(foreign, "store", url)
    with pytest.raises(IndexFolderError, match="pickled"):
        RefragIndex.open(foreign, model)
    with pytest.raises(StoreError, match="run somebody's code"):
        RefragIndex.open(foreign, model, store=url)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["../elsewhere", "view"])
def test_pickles_are_found_wherever_the_client_would_read_them(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "q"
    url = embedded_qdrant(folder, Code(tmp_path / "ran"))
    (path,) = folder.rglob("storage.sqlite")
    if place == "view":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("ALTER TABLE points RENAME TO hidden")
            connection.execute("CREATE VIEW points AS SELECT * FROM hidden WHERE random() > 0")
    else:
        shutil.move(path.parent, folder / "elsewhere")
        meta = json.loads((folder / "meta.json").read_text())
        meta["collections"] = {place: next(iter(meta["collections"].values()))}
        (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="run somebody's code"):
        open_store(url)
    assert not (tmp_path / "ran").exists()


def test_what_qdrants_client_writes_itself_is_opened(tmp_path: Path, model: FakeModel) -> None:
    url = f"qdrant://{tmp_path / 'q'}"
    with RefragIndex.create(tmp_path / "index", model, store=url) as index:
        index.add_texts(["Rain fell."])
    with RefragIndex.open(tmp_path / "index", model, store=url) as index:
        check(index, model)


def test_a_store_that_the_user_named_once_is_followed_until_the_folder_names_another(
    tmp_path: Path, model: FakeModel
) -> None:
    url, other = (f"sqlite://{tmp_path / name}" for name in ("a.sqlite", "b.sqlite"))
    folder = tmp_path / "index"
    with RefragIndex.create(folder, model, store=url) as index:
        index.add_texts(["Rain fell."])
    with RefragIndex.open(folder, model) as index:
        check(index, model)
    name_store(folder, other)
    with pytest.raises(IndexFolderError, match="nobody has named"):
        RefragIndex.open(folder, model)
    assert not (tmp_path / "b.sqlite").exists()
    RefragIndex.open(folder, model, store=other).close()
    RefragIndex.open(folder, model).close()


def test_an_index_that_came_from_elsewhere_asks_once(tmp_path: Path, model: FakeModel) -> None:
    url = f"sqlite://{tmp_path / 'a.sqlite'}"
    with RefragIndex.create(tmp_path / "index", model, store=url) as index:
        index.add_texts(["Rain fell."])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "index", copy)
    with pytest.raises(IndexFolderError, match="nobody has named"):
        RefragIndex.open(copy, model)
    RefragIndex.open(copy, model, store=url).close()
    RefragIndex.open(copy, model).close()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_record_agrees_to_nothing_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    record_agreement(tmp_path, "store", "sqlite:///a")
    path = platformdirs.user_data_path("refrag-components") / "agreed.json"
    path.write_bytes(content)
    assert not has_agreed(tmp_path, "store", "sqlite:///a")
    record_agreement(tmp_path, "store", "sqlite:///a")
    assert has_agreed(tmp_path, "store", "sqlite:///a")
    assert not has_agreed(tmp_path, "store", "sqlite:///b")
    assert not has_agreed(tmp_path / "x", "store", "sqlite:///a")


def test_folders_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    record_agreement(tmp_path / "gone", "model", "somebody/model")
    (tmp_path / "gone").rmdir()
    record_agreement(tmp_path, "model", "somebody/model")
    path = platformdirs.user_data_path("refrag-components") / "agreed.json"
    assert list(json.loads(path.read_text())) == [str(tmp_path.resolve())]


@pytest.mark.parametrize("name", ["meta.json", "store.sqlite", "search.npy", "store.sqlite-wal"])
def test_files_that_are_links_out_of_the_folder_are_refused(
    foreign: Path, model: FakeModel, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "precious"
    victim.write_bytes((foreign / name).read_bytes() if (foreign / name).exists() else b"mine")
    before = victim.read_bytes()
    (foreign / name).unlink(missing_ok=True)
    (foreign / name).symlink_to(victim)
    for use in (RefragIndex.open, lambda *a: RefragIndex.create(*a, passage_tokens=8)):
        with pytest.raises(IndexFolderError, match="leads out of the folder"):
            use(foreign, model)
    with pytest.raises(IndexFolderError, match="leads out of the folder"):
        index_info(foreign)
    assert victim.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM passages; END",
        "CREATE VIEW v AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i FROM n) "
        "SELECT i FROM n",
    ],
)
def test_a_database_that_would_do_things_by_itself_is_refused(
    foreign: Path, model: FakeModel, statement: str
) -> None:
    with closing(sqlite3.connect(foreign / "store.sqlite")) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StoreError, match="never makes"):
        RefragIndex.open(foreign, model)


def test_the_search_file_is_read_as_plain_arrays(foreign: Path, model: FakeModel) -> None:
    """FAISS reads what a file says without checking it; NumPy's arrays hold nothing but numbers."""
    with (foreign / "search.npy").open("rb") as file:
        ids, vectors = (np.load(file, allow_pickle=False) for _ in range(2))
    assert (ids.dtype, vectors.dtype) == (np.int64, np.float32)
    assert len(ids) == len(vectors) == 1


@pytest.mark.parametrize("content", ["pickle", "huge", "other shape", "nan"])
def test_a_search_file_with_anything_else_is_built_again(
    foreign: Path, model: FakeModel, tmp_path: Path, content: str
) -> None:
    """Its digest is right: whoever writes the file writes the digest next to it."""
    path = foreign / "search.npy"
    with path.open("wb") as file:
        if content == "pickle":
            np.save(file, np.array([Code(tmp_path / "ran")], dtype=object), allow_pickle=True)
        elif content == "huge":
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)}
            )
        elif content == "other shape":
            np.save(file, np.arange(3))
            np.save(file, np.zeros((2, 2), np.float32))
        else:
            np.save(file, np.arange(1))
            np.save(file, np.full((1, 64), np.nan, np.float32))
    with closing(sqlite3.connect(foreign / "store.sqlite")) as connection, connection:
        query = "SELECT value FROM facts WHERE name = 'search file'"
        _, *position = json.loads(connection.execute(query).fetchone()[0])
        with path.open("rb") as file:
            saved = json.dumps([_digest(file, position), *position])
        connection.execute("UPDATE facts SET value = ? WHERE name = 'search file'", (saved,))
    with RefragIndex.open(foreign, model) as index:
        check(index, model)
    assert not (tmp_path / "ran").exists()
