from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from refrag_components.exceptions import InvalidVectorsError, StoreError
from refrag_components.stores import open_store
from refrag_components.stores.lancedb import LanceDBStore
from refrag_components.vectors import CODECS, ChunkVectors
from tests.stores.contract import DatabaseContract, key, make
from tests.stores.processes import check_kill, check_second_process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lance"


@pytest.fixture
def database(path: Path) -> lancedb.DBConnection:
    return lancedb.connect(path)


class TestLanceDBStore(DatabaseContract):
    @pytest.fixture
    def store(self, database: lancedb.DBConnection) -> LanceDBStore:
        return LanceDBStore(database)

    @pytest.fixture
    def tenants(self, database: lancedb.DBConnection) -> tuple[LanceDBStore, LanceDBStore]:
        return LanceDBStore(database, table="one"), LanceDBStore(database, table="two")


@pytest.mark.parametrize("codec", CODECS)
def test_values_outlive_the_store_in_every_codec(path: Path, codec: str) -> None:
    kept = ChunkVectors.from_bytes(make(1).to_bytes(codec))
    with open_store(f"lancedb://{path}?codec={codec}&table=vectors") as store:
        store.mset([("a", make(1))])
    with LanceDBStore(lancedb.connect(path), table="vectors") as store:
        assert store.mget(["a"]) == [kept]


def rewrite(database: lancedb.DBConnection, change: Any) -> None:
    """Replaces the bytes of row "a" by what ``change`` makes of the rows."""
    table = database.open_table("refrag_chunk_vectors")
    rows = {row["key"]: row["value"] for row in table.to_arrow().to_pylist()}
    table.delete("key = 'a'")
    table.add(pa.table({"key": ["a"], "value": [change(rows)]}))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows["a"][:40],
        lambda rows: b"",
        lambda rows: None,
        lambda rows: rows["b"],
        lambda rows: rows["a"][:70] + b"!" + rows["a"][71:],
    ],
)
def test_a_damaged_row_is_a_miss_until_it_is_stored_again(
    database: lancedb.DBConnection, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = LanceDBStore(database)
    store.mset([("a", make(1)), ("b", make(2))])
    rewrite(database, change)
    with caplog.at_level(logging.WARNING):
        assert store.mget(["a", "b"]) == [None, make(2)]
    assert store.corrupt_rows == 1
    assert "row a is damaged" in caplog.text
    store.mset([("a", make(1))])
    assert store.mget(["a"]) == [make(1)]


def test_of_a_row_that_is_there_twice_the_whole_one_is_read(database: lancedb.DBConnection) -> None:
    store = LanceDBStore(database)
    store.mset([("a", make(1))])
    table = database.open_table("refrag_chunk_vectors")
    table.add(pa.table({"key": ["a"], "value": [b"damaged"]}))
    assert store.mget(["a"]) == [make(1)]
    assert list(store.yield_keys()) == ["a"]
    store.mset([("a", make(2))])
    assert store.mget(["a"]) == [make(2)]
    store.mdelete(["a"])
    assert store.mget(["a"]) == [None]


def test_bytes_altered_in_any_file_never_give_a_wrong_value(path: Path) -> None:
    store = LanceDBStore(lancedb.connect(path))
    for first in range(0, 40, 10):
        store.mset((key(i), make(i, n_tokens=200, width=64)) for i in range(first, first + 10))
    files = [file for file in path.rglob("*") if file.is_file()]
    generator = random.Random(0)
    outcomes = {"right": 0, "miss": 0, "error": 0}
    for _ in range(80):
        file = generator.choice(files)
        whole = file.read_bytes()
        altered = bytearray(whole)
        for _ in range(generator.choice([1, 20])):
            altered[generator.randrange(len(altered))] = generator.randrange(256)
        file.write_bytes(altered[: generator.choice([len(altered), len(altered) // 2])])
        try:
            read = LanceDBStore(lancedb.connect(path)).mget([key(i) for i in range(40)])
        except StoreError:
            outcomes["error"] += 1
        else:
            for i, value in enumerate(read):
                assert value is None or value == make(i, n_tokens=200, width=64)
            outcomes["miss" if None in read else "right"] += 1
        file.write_bytes(whole)
    assert min(outcomes.values()) > 0


def test_a_value_that_does_not_fit_leaves_nothing_behind(database: lancedb.DBConnection) -> None:
    store = LanceDBStore(database)
    huge = ChunkVectors(np.array([[1e6]]), np.array([1]), 4, "f")
    with pytest.raises(InvalidVectorsError, match="float16"):
        store.mset([("a", make(1)), ("b", huge)])
    assert list(store.yield_keys()) == []


def test_many_writes_become_one_file(
    database: lancedb.DBConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refrag_components.stores.lancedb._WRITES_A_COMPACTION", 5)
    store = LanceDBStore(database)
    for i in range(5):
        store.mset([(key(i), make(i))])
    stats: Any = database.open_table("refrag_chunk_vectors").stats()
    assert stats["fragment_stats"]["num_fragments"] == 1
    assert store.mget([key(i) for i in range(5)]) == [make(i) for i in range(5)]


def test_another_programs_table_is_left_alone(database: lancedb.DBConnection) -> None:
    database.create_table("history", data=[{"url": "a"}])
    with pytest.raises(StoreError, match="no other program's table"):
        LanceDBStore(database, table="history")
    assert database.open_table("history").to_arrow().to_pylist() == [{"url": "a"}]


def test_a_file_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        open_store(f"lancedb://{tmp_path / 'file'}")


def test_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    check_kill(f"lancedb://{path}")


def test_reads_while_another_process_writes(path: Path) -> None:
    check_second_process(f"lancedb://{path}")
