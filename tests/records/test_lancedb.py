from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from refrag_components.exceptions import StoreError
from refrag_components.records import lancedb as module
from refrag_components.records.lancedb import LanceDBRecords
from tests.records.contract import WIDTH, PackedContract, record, texts

NAME = "refrag_records"


@pytest.fixture
def database(tmp_path: Path) -> lancedb.DBConnection:
    return lancedb.connect(tmp_path)


class TestLanceDBRecords(PackedContract):
    @pytest.fixture
    def records(self, database: lancedb.DBConnection) -> LanceDBRecords:
        return LanceDBRecords(database)

    @pytest.fixture(params=["truncated", "nothing", "another's"])
    def damage(
        self, request: pytest.FixtureRequest, database: lancedb.DBConnection
    ) -> Callable[[], object]:
        return lambda: damage_rows(database, request.param)

    @pytest.fixture
    def replace_tokens(self, database: lancedb.DBConnection) -> Callable[[str, bytes], object]:
        return lambda text, tokens: database.open_table(NAME).update(
            where=f"text = '{text}'", values={"tokens": tokens}
        )


def damage_rows(database: lancedb.DBConnection, kind: str) -> None:
    table = database.open_table(NAME)
    rows = table.to_arrow()
    values = rows["chunks"].to_pylist()
    changed = {
        "truncated": [value[:40] for value in values],
        "nothing": [b"" for _ in values],
        "another's": values[::-1],
    }[kind]
    at = rows.schema.get_field_index("chunks")
    damaged = rows.set_column(at, "chunks", pa.array(changed, pa.binary()))
    database.create_table(NAME, damaged, mode="overwrite")


def test_each_tenant_has_a_table(database: lancedb.DBConnection) -> None:
    records = LanceDBRecords(database)
    for tenant in ("", "a", "b"):
        records.for_tenant(tenant).put([record(1)])
    names = database.list_tables().tables
    assert NAME in names
    assert len(names) == 3
    assert [database.open_table(name).count_rows() for name in names] == [1, 1, 1]


def test_token_vectors_may_be_kept_as_bits(database: lancedb.DBConnection) -> None:
    records = LanceDBRecords(database, quantised=True)
    records.put([record(i, tokens=4) for i in range(5)])
    (stored,) = database.open_table(NAME).search().limit(1).to_list()
    assert len(stored["tokens"]) == 4 * WIDTH // 8
    signs = np.where(record(3, tokens=4).token_vectors > 0, 1.0, -1.0)  # type: ignore[operator]
    (found,) = records.search(np.ones(WIDTH), signs, k=1)
    assert found.text == "passage 3"
    assert found.score == pytest.approx(1, abs=1e-3)


def test_many_small_writes_are_compacted(
    database: lancedb.DBConnection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_PUTS_PER_COMPACTION", 5)
    records = LanceDBRecords(database)
    for i in range(10):
        records.put([record(i)])
    assert database.open_table(NAME).stats()["fragment_stats"]["num_fragments"] == 1
    assert len(records.search(np.ones(WIDTH), k=20)) == 10


def test_a_table_of_another_kind_is_left_alone(database: lancedb.DBConnection) -> None:
    database.create_table(NAME, [{"text": "mine"}])
    records = LanceDBRecords(database)
    with pytest.raises(StoreError, match=r"(?s)refrag_records .*another program's"):
        records.put([record(1)])
    with pytest.raises(StoreError, match=r"(?s)refrag_records .*another program's"):
        records.search(np.ones(WIDTH))
    assert database.open_table(NAME).to_arrow().to_pylist() == [{"text": "mine"}]


def test_another_connection_sees_what_was_written(
    database: lancedb.DBConnection, tmp_path: Path
) -> None:
    writer, reader = LanceDBRecords(database), LanceDBRecords(lancedb.connect(tmp_path))
    assert reader.search(np.ones(WIDTH)) == []
    writer.put([record(1)])
    assert texts(reader.search(np.ones(WIDTH))) == ["passage 1"]
    writer.put([record(2)])
    assert len(reader.search(np.ones(WIDTH))) == 2
