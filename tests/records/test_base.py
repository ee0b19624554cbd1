from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refrag_components.exceptions import InvalidVectorsError
from refrag_components.records.base import found_record
from refrag_components.vectors import passage_key
from tests.records.contract import FINGERPRINT, WIDTH, record
from tests.requirements import CLIENTS, packages
from tests.stores.processes import run


def test_the_key_is_that_of_the_stores() -> None:
    assert record(1, text=" passage \n").key == passage_key("passage", FINGERPRINT)


def test_vectors_have_length_1() -> None:
    made = record(1, vector=np.full(WIDTH, 7.0), token_vectors=np.full((2, WIDTH), 7.0))
    assert made.token_vectors is not None
    for row in (made.vector, *made.token_vectors):
        assert np.linalg.norm(row) == pytest.approx(1)


@pytest.mark.parametrize(
    "values",
    [
        {"vector": np.ones((2, 2))},
        {"vector": np.array([1, np.inf])},
        {"token_vectors": np.ones(WIDTH)},
        {"token_vectors": np.ones((2, WIDTH - 1))},
        {"token_vectors": np.zeros((0, WIDTH))},
        {"token_vectors": np.full((2, WIDTH), np.nan)},
    ],
)
def test_what_is_no_vector_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidVectorsError):
        record(1, **values)


def test_a_record_needs_a_text() -> None:
    with pytest.raises(ValueError, match="text"):
        record(1, text=" \n")


@pytest.mark.parametrize("metadata", ['{"page": ', "[1]", b"\xff", None, 7])
def test_damaged_metadata_cost_only_these(
    metadata: object, caplog: pytest.LogCaptureFixture
) -> None:
    stored = record(1)
    found = found_record(
        "Records",
        text=stored.text,
        score=1.0,
        key=stored.key,
        metadata=metadata,
        read=lambda _: stored.chunk_vectors,
    )
    assert (found.text, found.metadata) == (stored.text, {})
    assert found.chunk_vectors == stored.chunk_vectors
    assert f"metadata of {stored.key} are damaged" in caplog.text


@pytest.mark.parametrize("extra", ["lancedb", "milvus", "postgres", "qdrant"])
def test_a_client_that_is_not_installed_is_named_with_its_extra(extra: str) -> None:
    code = """
        from importlib import import_module
        from refrag_components.exceptions import MissingExtraError
        sys.modules |= dict.fromkeys(sys.argv[2:])
        try:
            import_module(f"refrag_components.records.{sys.argv[1]}")
        except MissingExtraError as error:
            assert f'pip install "refrag-components[{sys.argv[1]}]"' in str(error)
        else:
            raise AssertionError
    """
    run(code, extra, *packages(CLIENTS[extra]))
