"""RefragEmbedding finds what it should."""

from __future__ import annotations

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex

from llama_index.embeddings.refrag import RefragEmbedding
from refrag_components.exceptions import UnknownModelError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.integrations.llama_index.conftest import PASSAGES, PRICES


def test_vectors_are_the_models(folder: str) -> None:
    embedding = RefragEmbedding(model=folder)
    expected = load_checkpoint(folder).model.search_vectors(list(PASSAGES))
    np.testing.assert_allclose(
        embedding.get_text_embedding_batch(list(PASSAGES)), expected, atol=1e-6
    )
    assert embedding.model_name == folder


def test_search(folder: str) -> None:
    documents = [Document(text=text) for text in PASSAGES]
    index = VectorStoreIndex.from_documents(documents, embed_model=RefragEmbedding(model=folder))
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(PRICES)
    assert found.text == PRICES


def test_unknown_model() -> None:
    with pytest.raises(UnknownModelError):
        RefragEmbedding(model="no-such-model")
