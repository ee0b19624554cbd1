"""Nodes with chunk vectors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
from llama_index.core.workflow import JsonSerializer

from llama_index.postprocessor.refrag import KEY_METADATA
from llama_index.retrievers.refrag import RefragNode
from refrag_components.vectors import ChunkVectors, passage_key
from tests.integrations.llama_index.conftest import HARBOUR

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def node() -> RefragNode:
    vectors = ChunkVectors(np.full((2, 8), 0.123456, np.float32), np.arange(6), 4, FINGERPRINT)
    key = passage_key(HARBOUR, FINGERPRINT)
    return RefragNode(text=HARBOUR, metadata={KEY_METADATA: key}, chunk_vectors=vectors)


def test_vectors_stay_out_of_all_that_is_shown_or_sent(node: RefragNode) -> None:
    scored = NodeWithScore(node=node, score=0.5)
    shown = [
        str(node),
        repr(node),
        node.to_json(),
        node.model_dump_json(),
        str(node.to_dict()),
        str(node.metadata),
        node.get_content(MetadataMode.ALL),
        str(node_to_metadata_dict(node)),
        JsonSerializer().serialize(node),
        *(str(scored), repr(scored), scored.to_json(), scored.model_dump_json()),
    ]
    for each in shown:
        assert "0.123" not in each
        assert "chunk_vectors" not in each
    assert all(HARBOUR in each for each in (shown[2], shown[-1]))


def test_loads_as_a_plain_node(node: RefragNode) -> None:
    docstore = SimpleDocumentStore()
    docstore.add_documents([node])
    stored = SimpleDocumentStore.from_dict(docstore.to_dict()).docs[node.node_id]
    for restored in (stored, metadata_dict_to_node(node_to_metadata_dict(node))):
        assert type(restored) is TextNode
        assert restored.text == HARBOUR
        assert restored.metadata == node.metadata


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda node: node.model_copy(),
        lambda node: pickle.loads(pickle.dumps(node)),
    ],
    ids=["copy", "deepcopy", "model_copy", "pickle"],
)
def test_copies_keep_the_vectors(node: RefragNode, duplicate: Any) -> None:
    copied = duplicate(node)
    assert copied.chunk_vectors == node.chunk_vectors
    assert copied == node


def test_other_values_are_no_vectors() -> None:
    with pytest.raises(ValueError, match="ChunkVectors"):
        RefragNode(text=HARBOUR, chunk_vectors=[[0.1]])
