"""Against Milvus Lite, which runs in this process; a Milvus server was not to be had."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient

from refrag_components.exceptions import StoreError
from refrag_components.records.milvus import MilvusRecords
from tests.records.contract import WIDTH, PackedContract, record

NAME = "refrag_records"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[MilvusClient]:
    client = MilvusClient(str(tmp_path / "milvus.db"))
    yield client
    client.close()


class TestMilvusRecords(PackedContract):
    @pytest.fixture
    def records(self, client: MilvusClient) -> MilvusRecords:
        return MilvusRecords(client)

    @pytest.fixture(params=["truncated", "nothing", "no base64", "another's"])
    def damage(self, request: pytest.FixtureRequest, client: MilvusClient) -> Callable[[], None]:
        return lambda: damage_rows(client, request.param)

    @pytest.fixture
    def replace_tokens(self, client: MilvusClient) -> Callable[[str, bytes], None]:
        def replace(text: str, tokens: bytes) -> None:
            rows = [dict(row) for row in client.query(NAME, filter='id >= ""', output_fields=["*"])]
            (row,) = [row for row in rows if list(row["text"]) == [text]]
            row["tokens"] = [base64.b64encode(tokens).decode()]
            client.upsert(NAME, [row])

        return replace


def damage_rows(client: MilvusClient, kind: str) -> None:
    rows = [dict(row) for row in client.query(NAME, filter='id >= ""', output_fields=["*"])]
    values = [list(row["chunks"]) for row in rows]
    for row, value, other in zip(rows, values, values[::-1], strict=True):
        row["chunks"] = {
            "truncated": [base64.b64encode(base64.b64decode(value[0])[:40]).decode()],
            "nothing": [],
            "no base64": [value[0][:-3]],
            "another's": other,
        }[kind]
    client.upsert(NAME, rows)


def test_tenants_are_partitions(client: MilvusClient) -> None:
    MilvusRecords(client).put([record(1)])
    fields = {field["name"]: field for field in client.describe_collection(NAME)["fields"]}
    assert fields["tenant"]["is_partition_key"]


def test_token_vectors_may_be_kept_as_bits(client: MilvusClient) -> None:
    records = MilvusRecords(client, quantised=True)
    records.put([record(i, tokens=4) for i in range(5)])
    signs = np.where(record(3, tokens=4).token_vectors > 0, 1.0, -1.0)  # type: ignore[operator]
    (found,) = records.search(np.ones(WIDTH), signs, k=1)
    assert found.text == "passage 3"
    assert found.score == pytest.approx(1, abs=1e-3)


def test_a_collection_of_another_kind_is_left_alone(client: MilvusClient) -> None:
    schema = MilvusClient.create_schema()
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
    schema.add_field("mine", DataType.FLOAT_VECTOR, dim=WIDTH)
    client.create_collection(NAME, schema=schema)
    with pytest.raises(StoreError, match=r"collection refrag_records: .*check"):
        MilvusRecords(client).put([record(1)])
    with pytest.raises(StoreError, match=r"collection refrag_records: .*check"):
        MilvusRecords(client).search(np.ones(WIDTH))
