from __future__ import annotations

import os
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refrag_components.exceptions import RefragError, StoreError
from refrag_components.stores import SQLiteStore
from tests.stores.altered_files import check_altered_files
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import check_kill, check_second_process, check_several_writers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def sqlite_store(path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(path) as store:
        yield store


class TestSQLiteStore(DatabaseContract):
    ascending = True

    @pytest.fixture
    def store(self, sqlite_store: SQLiteStore) -> SQLiteStore:
        return sqlite_store

    @pytest.fixture
    def tenants(self, tmp_path: Path) -> Iterator[tuple[SQLiteStore, SQLiteStore]]:
        """Tenants get a file each."""
        with SQLiteStore(tmp_path / "one") as one, SQLiteStore(tmp_path / "two") as two:
            yield one, two

    @pytest.fixture
    def urls(self, tmp_path: Path) -> tuple[str, str]:
        return f"sqlite://{tmp_path}/one", f"sqlite://{tmp_path}/two"

    @pytest.fixture(
        params=[
            "substr(value, 1, 40)",
            "zeroblob(300)",
            "x''",
            "'text'",
            "7",
            "(SELECT value FROM chunk_vectors WHERE key = 'b')",
        ]
    )
    def damage(self, request: pytest.FixtureRequest, path: Path) -> Callable[[], None]:
        statement = f"UPDATE chunk_vectors SET value = {request.param} WHERE key = 'a'"
        return lambda: execute(path, statement)


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_creates_missing_folders(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "a" / "b" / "store.sqlite").close()
    assert (tmp_path / "a" / "b" / "store.sqlite").exists()


def test_an_unknown_codec_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="int4"):
        SQLiteStore(path, codec="int4")  # type: ignore[arg-type]
    assert not path.exists()


# -- transactions -------------------------------------------------------------------------------


def test_an_error_rolls_back_nested_writes(sqlite_store: SQLiteStore) -> None:
    sqlite_store.mset([("a", make(1))])
    with pytest.raises(KeyboardInterrupt), sqlite_store.database.write():
        sqlite_store.mset([("b", make(2))])
        sqlite_store.mdelete(["a"])
        raise KeyboardInterrupt
    assert list(sqlite_store.yield_keys()) == ["a"]
    sqlite_store.mset([("c", make(3))])
    assert list(sqlite_store.yield_keys()) == ["a", "c"]


def test_a_busy_file_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refrag_components.stores.common.database._BUSY_SECONDS", 0.05)
    with SQLiteStore(path) as one, SQLiteStore(path) as other, one.database.write():
        assert other.mget(["a"]) == [None]
        with pytest.raises(StoreError, match="another process"):
            other.mset([("a", make(1))])


def test_a_new_file_that_stays_locked_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refrag_components.stores.common.database._BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA application_id=0x52465247")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process"):
        SQLiteStore(path)
    other.execute("ROLLBACK")
    other.close()
    SQLiteStore(path).close()


# -- foreign and damaged files ------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0" + bytes(600)])
def test_a_file_that_is_not_sqlite_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.sqlite.*choose another path"):
        SQLiteStore(path)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["store.sqlite"]


def test_another_programs_sqlite_file_is_left_alone(path: Path) -> None:
    execute(path, "CREATE TABLE history (url TEXT)")
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        SQLiteStore(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.touch()
    with SQLiteStore(path) as store:
        store.mset([("a", make(1))])
        assert store.mget(["a"]) == [make(1)]


def test_a_folder_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="writable file"):
        SQLiteStore(tmp_path)


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="not a folder"):
        SQLiteStore(tmp_path / "file" / "store.sqlite")


def test_altered_files_never_give_a_wrong_value(tmp_path: Path) -> None:
    check_altered_files(f"sqlite://{tmp_path}/store/file", tmp_path / "store", rounds=150)


def test_an_unreadable_table_is_reported(path: Path) -> None:
    with SQLiteStore(path) as store:
        store.mset([("a", make(1))])
    name = b"CREATE TABLE chunk_vectors"
    content = path.read_bytes()
    assert content.count(name) == 1
    path.write_bytes(content.replace(name, b"CREATE TABLE chunk\xff\xfectors"))
    with pytest.raises(StoreError, match="damaged"):
        SQLiteStore(path)


def test_store_errors_are_refrag_errors_and_os_errors() -> None:
    assert issubclass(StoreError, RefragError)
    assert issubclass(StoreError, OSError)


# -- several processes --------------------------------------------------------------------------


def test_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    check_kill(str(path), rounds=3, writes=30)


def test_reads_while_another_process_writes(path: Path) -> None:
    check_second_process(str(path), writes=300)


def test_several_processes_make_and_write_one_file(path: Path) -> None:
    check_several_writers(str(path), processes=5, writes=50)


def in_child(work: Callable[[], None]) -> int:
    """Runs ``work`` in a forked child; returns its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_forked_child_write_at_once(sqlite_store: SQLiteStore) -> None:
    sqlite_store.mset([("before", make(0))])

    def child() -> None:
        assert sqlite_store.mget(["before"]) == [make(0)]
        for i in range(100):
            sqlite_store.mset([(key(i), make(i))])
        sqlite_store.close()

    def parent() -> None:
        for i in range(100, 200):
            sqlite_store.mset([(key(i), make(i))])

    thread = threading.Thread(target=parent)
    thread.start()
    assert in_child(child) == 0
    thread.join()
    assert sqlite_store.mget([key(i) for i in range(200)]) == [make(i) for i in range(200)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_inside_a_transaction_has_to_open_its_own_store(
    sqlite_store: SQLiteStore,
) -> None:
    def child() -> None:
        with pytest.raises(StoreError, match="open it again"):
            sqlite_store.mget(["a"])

    with sqlite_store.database.write():
        sqlite_store.mset([("a", make(1))])
        assert in_child(child) == 0
    assert sqlite_store.mget(["a"]) == [make(1)]


def test_pickled_stores_open_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteStore("store.sqlite", codec="int8") as store:
        pickled = pickle.dumps(store)
        store.mset([("a", make(1))])
        monkeypatch.chdir(tmp_path.parent)
        with pickle.loads(pickled) as other:
            assert other.codec == "int8"
            assert other.mget(["a"]) == store.mget(["a"])
