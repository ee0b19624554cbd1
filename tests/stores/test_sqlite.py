from __future__ import annotations

import logging
import os
import pickle
import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from refrag_components.exceptions import InvalidVectorsError, RefragError, StoreError
from refrag_components.stores import SQLiteStore
from refrag_components.vectors import CODECS, ChunkVectors
from tests.stores.contract import StoreContract, key, make
from tests.stores.processes import start

LOSS = {"float32": 0, "float16": 0, "int8": 0.02, "rotated4": 0.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def sqlite_store(path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(path) as store:
        yield store


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def store(self, sqlite_store: SQLiteStore) -> SQLiteStore:
        return sqlite_store


def damage(path: Path, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, parameters)
    connection.close()


# -- persistence --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_values_outlive_the_store(path: Path, codec: str) -> None:
    with SQLiteStore(path, codec=codec) as store:
        store.mset([("a", make(1))])
    with SQLiteStore(path) as store:
        (read,) = store.mget(["a"])
    assert read is not None
    np.testing.assert_allclose(read.vectors, make(1).vectors, atol=LOSS[codec])
    assert read.token_ids.tolist() == make(1).token_ids.tolist()


def test_creates_missing_folders(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "a" / "b" / "store.sqlite").close()
    assert (tmp_path / "a" / "b" / "store.sqlite").exists()


def test_yields_more_keys_than_fit_a_page(
    sqlite_store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refrag_components.stores.sqlite._KEYS_A_PAGE", 3)
    names = [f"k{i:02}" for i in range(9)]
    sqlite_store.mset((name, make(0)) for name in [*names, "z"])
    assert list(sqlite_store.yield_keys()) == [*names, "z"]
    assert list(sqlite_store.yield_keys(prefix="k")) == names
    assert list(sqlite_store.yield_keys(prefix="k0")) == names


def test_a_value_that_does_not_fit_the_codec_leaves_nothing_behind(
    sqlite_store: SQLiteStore,
) -> None:
    huge = ChunkVectors(np.array([[1e6]]), np.array([1]), 4, "f")
    with pytest.raises(InvalidVectorsError, match="float16"):
        sqlite_store.mset([("a", make(1)), ("b", huge)])
    assert list(sqlite_store.yield_keys()) == []


def test_an_unknown_codec_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="int4"):
        SQLiteStore(path, codec="int4")  # type: ignore[arg-type]
    assert not path.exists()


def test_a_closed_store_says_so(path: Path) -> None:
    store = SQLiteStore(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.mget(["a"])


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
    monkeypatch.setattr("refrag_components.stores.database._BUSY_SECONDS", 0.05)
    with SQLiteStore(path) as one, SQLiteStore(path) as other, one.database.write():
        assert other.mget(["a"]) == [None]
        with pytest.raises(StoreError, match="another process"):
            other.mset([("a", make(1))])


def test_a_new_file_that_stays_locked_is_reported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refrag_components.stores.database._BUSY_SECONDS", 0.05)
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
    damage(path, "CREATE TABLE history (url TEXT)")
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        SQLiteStore(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_store(path: Path) -> None:
    path.touch()
    with SQLiteStore(path) as store:
        store.mset([("a", make(1))])
        assert store.mget(["a"]) == [make(1)]


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="writable file"):
        SQLiteStore(tmp_path)


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="no folder"):
        SQLiteStore(tmp_path / "file" / "store.sqlite")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE chunk_vectors SET value = substr(value, 1, 40) WHERE key = 'a'",
        "UPDATE chunk_vectors SET value = zeroblob(300) WHERE key = 'a'",
        "UPDATE chunk_vectors SET value = x'' WHERE key = 'a'",
        "UPDATE chunk_vectors SET value = 'text' WHERE key = 'a'",
        "UPDATE chunk_vectors SET value = 7 WHERE key = 'a'",
        "UPDATE chunk_vectors SET value = (SELECT value FROM chunk_vectors WHERE key = 'b') "
        "WHERE key = 'a'",
    ],
)
def test_a_damaged_row_is_a_miss_until_it_is_stored_again(
    path: Path, sqlite_store: SQLiteStore, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    sqlite_store.mset([("a", make(1)), ("b", make(2))])
    damage(path, statement)
    with caplog.at_level(logging.WARNING):
        assert sqlite_store.mget(["a", "b"]) == [None, make(2)]
    assert sqlite_store.corrupt_rows == 1
    assert "row a is damaged" in caplog.text
    sqlite_store.mset([("a", make(1))])
    assert sqlite_store.mget(["a"]) == [make(1)]
    assert sqlite_store.corrupt_rows == 1


def test_bytes_altered_anywhere_in_the_file_never_give_a_wrong_value(path: Path) -> None:
    with SQLiteStore(path) as store:
        store.mset((key(i), make(i, n_tokens=200, width=64)) for i in range(40))
    whole = path.read_bytes()
    generator = random.Random(0)
    outcomes = {"right": 0, "miss": 0, "error": 0}
    for _ in range(150):
        altered = bytearray(whole)
        for _ in range(generator.choice([1, 20])):
            altered[generator.randrange(len(altered))] = generator.randrange(256)
        path.write_bytes(altered)
        try:
            with SQLiteStore(path) as store:
                read = store.mget([key(i) for i in range(40)])
        except StoreError:
            outcomes["error"] += 1
            continue
        for i, value in enumerate(read):
            assert value is None or value == make(i, n_tokens=200, width=64)
            outcomes["miss" if value is None else "right"] += 1
    assert outcomes["right"] > outcomes["miss"] > 0


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
    for round_ in range(3):
        writer = start(
            """
            store, first = SQLiteStore(sys.argv[1]), int(sys.argv[2])
            for i in range(first, first + 100_000):
                store.mset([(key(i), make(i)), (f"twin{i}", make(i))])
                print(i, flush=True)
            """,
            path,
            round_ * 100_000,
        )
        assert writer.stdout is not None
        committed = [int(writer.stdout.readline()) for _ in range(30)]
        writer.send_signal(signal.SIGKILL)
        committed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        with SQLiteStore(path) as store:
            assert store.mget([key(i) for i in committed]) == [make(i) for i in committed]
            twins = {k for k in store.yield_keys() if k.startswith("twin")}
            assert len(list(store.yield_keys())) == 2 * len(twins)
            store.mset([("after", make(0))])
            store.mdelete(["after"])


def test_reads_while_another_process_writes(path: Path, sqlite_store: SQLiteStore) -> None:
    writer = start(
        """
        store = SQLiteStore(sys.argv[1])
        for i in range(300):
            store.mset([(key(i), make(i))])
        """,
        path,
    )
    keys, found = [key(i) for i in range(300)], 0
    while writer.poll() is None:
        values = sqlite_store.mget(keys)
        assert all(value is None or value == make(i) for i, value in enumerate(values))
        now = sum(value is not None for value in values)
        assert now >= found
        found = now
    writer.communicate()
    assert writer.returncode == 0
    assert None not in sqlite_store.mget(keys)


def test_several_processes_create_and_write_one_file(path: Path) -> None:
    code = """
        first = int(sys.argv[2])
        with SQLiteStore(sys.argv[1]) as store:
            for i in range(first, first + 50):
                store.mset([(key(i), make(i)), ("shared", make(0))])
    """
    writers = [start(code, path, 50 * n) for n in range(5)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with SQLiteStore(path) as store:
        assert store.mget([key(i) for i in range(250)]) == [make(i) for i in range(250)]
        assert store.mget(["shared"]) == [make(0)]


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
