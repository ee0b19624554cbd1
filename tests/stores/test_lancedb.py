from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from refrag_components.exceptions import StoreError
from refrag_components.stores.lancedb import LanceDBStore
from tests.stores.altered_files import check_altered_files
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

    @pytest.fixture
    def urls(self, path: Path) -> tuple[str, str]:
        return f"lancedb://{path}?table=one", f"lancedb://{path}"

    @pytest.fixture(
        params=[
            lambda rows: rows["a"][:40],
            lambda rows: b"",
            lambda rows: None,
            lambda rows: rows["b"],
            lambda rows: rows["a"][:70] + b"!" + rows["a"][71:],
        ]
    )
    def damage(
        self, request: pytest.FixtureRequest, database: lancedb.DBConnection
    ) -> Callable[[], None]:
        return lambda: rewrite(database, request.param)

    test_a_closed_store_says_so = None  # it holds nothing, so it continues to work


def rewrite(database: lancedb.DBConnection, change: Any) -> None:
    """Replaces the bytes of row "a" by what ``change`` makes of the rows."""
    table = database.open_table("refrag_chunk_vectors")
    rows = {row["key"]: row["value"] for row in table.to_arrow().to_pylist()}
    table.delete("key = 'a'")
    table.add(pa.table({"key": ["a"], "value": [change(rows)]}))


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


def test_altered_files_never_give_a_wrong_value(path: Path) -> None:
    check_altered_files(f"lancedb://{path}", path, rounds=80)


def test_many_writes_become_one_file(
    database: lancedb.DBConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refrag_components.stores.lancedb._WRITES_PER_COMPACTION", 5)
    store = LanceDBStore(database)
    for i in range(5):
        store.mset([(key(i), make(i))])
    stats: Any = database.open_table("refrag_chunk_vectors").stats()
    assert stats["fragment_stats"]["num_fragments"] == 1
    assert store.mget([key(i) for i in range(5)]) == [make(i) for i in range(5)]


def test_another_programs_table_is_left_alone(database: lancedb.DBConnection) -> None:
    database.create_table("history", data=[{"url": "a"}])
    with pytest.raises(StoreError, match="not another program's"):
        LanceDBStore(database, table="history")
    assert database.open_table("history").to_arrow().to_pylist() == [{"url": "a"}]


def test_survives_a_kill_in_the_middle_of_writing(path: Path) -> None:
    check_kill(f"lancedb://{path}")


def test_reads_while_another_process_writes(path: Path) -> None:
    check_second_process(f"lancedb://{path}")
