"""Documents with chunk vectors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from langchain_core.prompts import PromptTemplate, format_document

from langchain_refrag.documents import KEY_METADATA, RefragDocument, document_stores
from refrag_components.prompts.resolver import Resolver
from refrag_components.vectors import ChunkVectors, passage_key
from tests.integrations.langchain.conftest import HARBOUR, RAIN

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def vectors() -> ChunkVectors:
    return ChunkVectors(
        vectors=np.full((2, 8), 0.123456, np.float32),
        token_ids=np.arange(6, dtype=np.int32),
        chunk_size=4,
        fingerprint=FINGERPRINT,
    )


@pytest.fixture
def document(vectors: ChunkVectors) -> RefragDocument:
    key = passage_key(HARBOUR, FINGERPRINT)
    return RefragDocument(page_content=HARBOUR, metadata={KEY_METADATA: key}, chunk_vectors=vectors)


def test_vectors_stay_out_of_text_and_traces(document: RefragDocument) -> None:
    template = PromptTemplate.from_template("{page_content}")
    shown = [
        str(document),
        repr(document),
        document.model_dump_json(),
        dumps(document),
        format_document(document, template),
    ]
    assert not any("0.123" in representation for representation in shown)
    assert format_document(document, template) == HARBOUR


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_loads_as_a_plain_document(document: RefragDocument) -> None:
    restored = loads(dumps(document))
    assert type(restored) is Document
    assert restored.page_content == HARBOUR
    assert restored.metadata == document.metadata


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda document: document.model_copy(),
        lambda document: pickle.loads(pickle.dumps(document)),
    ],
    ids=["copy", "deepcopy", "model_copy", "pickle"],
)
def test_copies_keep_the_vectors(document: RefragDocument, duplicate: Any) -> None:
    copied = duplicate(document)
    assert copied.chunk_vectors == document.chunk_vectors
    assert copied == document


def test_other_values_are_no_vectors() -> None:
    with pytest.raises(ValueError, match="ChunkVectors"):
        RefragDocument(page_content=HARBOUR, chunk_vectors=[[0.1]])  # type: ignore[arg-type]


class TestStores:
    resolver = Resolver(FINGERPRINT)

    def test_vectors_that_belong_to_the_text(
        self, document: RefragDocument, vectors: ChunkVectors
    ) -> None:
        store = document_stores([document], self.resolver)[HARBOUR]
        assert store is not None
        assert store.mget([document.metadata[KEY_METADATA]]) == [vectors]

    def test_vectors_of_another_text_are_dropped(self, document: RefragDocument) -> None:
        changed = document.model_copy(update={"page_content": RAIN})
        assert document_stores([changed], self.resolver) == {RAIN: None}

    def test_vectors_of_another_model_are_dropped(self, document: RefragDocument) -> None:
        resolver = Resolver("another model")
        assert document_stores([document], resolver) == {HARBOUR: None}

    def test_no_documents(self) -> None:
        assert document_stores(None, self.resolver) == {}
        assert document_stores((), self.resolver) == {}
