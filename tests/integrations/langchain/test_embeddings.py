"""RefragEmbeddings beyond the standard suites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_refrag import RefragEmbeddings
from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling import RefragModel
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN


def test_are_the_search_vectors_of_the_checkpoint(
    tiny_folder: Path, tiny_model: RefragModel
) -> None:
    embeddings = RefragEmbeddings(model=str(tiny_folder), device="cpu")
    rows = embeddings.embed_documents([HARBOUR, RAIN])
    np.testing.assert_allclose(rows, tiny_model.search_vectors([HARBOUR, RAIN]), rtol=1e-4)
    np.testing.assert_allclose(embeddings.embed_query(RAIN), rows[1], atol=1e-5)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)


def test_tokens_are_those_of_the_checkpoint(tiny_folder: Path, tiny_model: RefragModel) -> None:
    rows = RefragEmbeddings(model=str(tiny_folder), device="cpu").embed_query_tokens(RAIN)
    np.testing.assert_allclose(rows, tiny_model.search_token_vectors([RAIN])[1][0], atol=1e-5)
    assert len(rows) > 10


def test_serve_a_vector_store(tiny_folder: Path) -> None:
    store = InMemoryVectorStore.from_texts(
        [HARBOUR, RAIN, PRICES], RefragEmbeddings(model=str(tiny_folder))
    )
    (found,) = store.similarity_search(RAIN, k=1)
    assert found.page_content == RAIN


def test_unknown_model() -> None:
    with pytest.raises(UnknownModelError):
        RefragEmbeddings(model="no-such-model")
