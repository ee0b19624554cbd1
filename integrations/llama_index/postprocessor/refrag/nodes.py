"""Nodes as passages: noted for the model, encoded, and marked with their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index.llms.refrag.nodes import RefragNode, carried_stores, marked, passage_of
from llama_index.llms.refrag.runs import retrieved_in_run
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.carried import KEY_METADATA
from refrag_components.prompts.parts import PassagePart
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores.common.base import ChunkStore
from refrag_components.vectors import passage_key

__all__ = ["KEY_METADATA", "encoded_nodes", "prepared_nodes"]

_NODES_PER_BATCH = 256  # so that an ingested corpus need not fit into memory


def prepared_nodes(
    query: str,
    nodes: Sequence[NodeWithScore],
    *,
    store: ChunkStore | None,
    model: str | None,
    device: str | None,
) -> list[NodeWithScore]:
    """Notes what was retrieved, so that the model recognises it in the prompts of this request.

    Args:
        query: What was searched for; "" if that is unknown.
        nodes: Retrieved nodes; they are not modified.
        store: Where chunk vectors of their texts are kept; the answering model's store if None.
        model: Checkpoint that makes missing chunk vectors now; None leaves that to the model that
            answers.
        device: Where that checkpoint runs.

    Returns:
        The nodes with the same scores in the same order; marked copies if there is a model.
    """
    if model is not None:
        store = _store(store, model, device)
        made = _encoded([each.node for each in nodes], model, store, device, keeps=False)
        nodes = [
            NodeWithScore(node=node, score=each.score)
            for node, each in zip(made, nodes, strict=True)
        ]
    request = retrieved_in_run()
    if request is not None:
        found = [each.node for each in nodes]
        request.add(Retrieval.of(query, map(passage_of, found), store, carried_stores(found)))
    return list(nodes)


def encoded_nodes(
    nodes: Sequence[BaseNode], model: str, *, store: ChunkStore | None, device: str | None
) -> list[BaseNode]:
    """Makes sure that a store has the chunk vectors of nodes, also of those that carry them.

    Args:
        nodes: Nodes; they are not modified. Those without text are passed on.
        model: Checkpoint that makes missing chunk vectors.
        store: The store; the checkpoint's store in memory if None.
        device: Where the checkpoint runs.

    Returns:
        Copies with the key of their chunk vectors in ``metadata["refrag_key"]``, in order; prompts
        and embeddings of the nodes do not change.
    """
    return list(_encoded(nodes, model, _store(store, model, device), device, keeps=True))


def _encoded(
    nodes: Sequence[BaseNode], name: str, store: ChunkStore, device: str | None, *, keeps: bool
) -> Iterator[BaseNode]:
    """Marked copies; the store gets what nodes carry only if it ``keeps`` that."""
    model = load_checkpoint(name, device).model
    loader = PassageLoader(model, store, waits=True)
    for start in range(0, len(nodes), _NODES_PER_BATCH):
        batch = nodes[start : start + _NODES_PER_BATCH]
        texts = [passage_of(node) for node in batch]
        keys = [passage_key(text, model.fingerprint) for text in texts]
        carried = carried_stores(batch)
        parts = [
            PassagePart(text, carried.get(key))
            for text, key in zip(texts, keys, strict=True)
            if text
        ]
        loaded = loader.load(parts)
        if keeps:
            loader.keep(parts, loaded)
        for node, text, key in zip(batch, texts, keys, strict=True):
            yield _marked(node, key) if text else node


def _marked(node: BaseNode, key: str) -> BaseNode:
    """A marked copy, without chunk vectors that do not go by this key."""
    copy = marked(node, key)
    if isinstance(copy, RefragNode) and key not in carried_stores([node]):
        copy.chunk_vectors = None
    return copy


def _store(store: ChunkStore | None, model: str, device: str | None) -> ChunkStore:
    # "or" would do the wrong thing: an empty store is false.
    return load_checkpoint(model, device).generator.store if store is None else store
