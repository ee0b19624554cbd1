"""Postprocessor, retriever and transform: what becomes of nodes, and of their chunk vectors."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, ImageNode, MetadataMode, NodeWithScore, TextNode

from llama_index.embeddings.refrag import ChunkVectorTransform
from llama_index.llms.refrag import RefragLLM, collect_reports
from llama_index.postprocessor.refrag import KEY_METADATA, RefragNodePostprocessor
from llama_index.retrievers.refrag import RefragRetriever
from refrag_components.exceptions import UnknownModelError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.retrieved import retrieved_by_hand
from refrag_components.stores import SQLiteStore
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.integrations.llama_index.conftest import PASSAGES, QUESTION, ListRetriever


def shown(nodes: list[NodeWithScore], mode: MetadataMode) -> list[tuple[str, float | None]]:
    return [(each.node.get_content(metadata_mode=mode), each.score) for each in nodes]


class TestNodes:
    @pytest.fixture(params=["postprocessor", "retriever"])
    def prepared(
        self, nodes: list[NodeWithScore], folder: str, request: pytest.FixtureRequest
    ) -> list[NodeWithScore]:
        if request.param == "retriever":
            return RefragRetriever(ListRetriever(nodes), model=folder).retrieve(QUESTION)
        return RefragNodePostprocessor(model=folder).postprocess_nodes(nodes, query_str=QUESTION)

    @pytest.mark.parametrize("mode", [MetadataMode.LLM, MetadataMode.EMBED, MetadataMode.NONE])
    def test_texts_stay(
        self, nodes: list[NodeWithScore], prepared: list[NodeWithScore], mode: MetadataMode
    ) -> None:
        assert shown(prepared, mode) == shown(nodes, mode)

    def test_keys(
        self, nodes: list[NodeWithScore], prepared: list[NodeWithScore], folder: str
    ) -> None:
        fingerprint = load_checkpoint(folder).model.fingerprint
        keys = [passage_key(text, fingerprint) for text in PASSAGES]
        assert [each.node.metadata[KEY_METADATA] for each in prepared] == keys
        assert [each.node.metadata["page"] for each in prepared] == [0, 1, 2]
        assert all(KEY_METADATA not in each.node.metadata for each in nodes)
        assert [each.node.node_id for each in prepared] == [each.node.node_id for each in nodes]

    def test_without_a_model_they_are_the_same_nodes(self, nodes: list[NodeWithScore]) -> None:
        kept = RefragNodePostprocessor().postprocess_nodes(nodes)
        assert [each.node for each in kept] == [each.node for each in nodes]
        (retrieval,) = retrieved_by_hand()
        assert retrieval.passages == PASSAGES

    def test_store_is_used(self, nodes: list[NodeWithScore], folder: str, llm: RefragLLM) -> None:
        store = MemoryStore()
        postprocessor = RefragNodePostprocessor(model=folder, store=store)
        engine = RetrieverQueryEngine.from_args(
            ListRetriever(nodes), llm=llm, node_postprocessors=[postprocessor]
        )
        with collect_reports() as reports:
            engine.query(QUESTION)
        assert len(store) == 3
        assert reports[0]["cache_hits"] == 3  # the LLM's own store is empty

    def test_outside_a_request_the_models_own_store_comes_first(
        self, nodes: list[NodeWithScore], llm: RefragLLM, folder: str
    ) -> None:
        store = MemoryStore()
        RefragNodePostprocessor(store=store).postprocess_nodes(nodes, query_str=QUESTION)
        llm.complete(f"{PASSAGES[0]}\n{QUESTION}")
        assert (len(store), len(llm.store)) == (0, 1)  # type: ignore[arg-type]
        RefragLLM(model=folder, max_tokens=2).complete(f"{PASSAGES[0]}\n{QUESTION}")
        assert len(store) == 1

    def test_nodes_without_text(self, folder: str) -> None:
        nodes = [NodeWithScore(node=ImageNode(text="")), NodeWithScore(node=TextNode(text=" "))]
        for postprocessor in (RefragNodePostprocessor(), RefragNodePostprocessor(model=folder)):
            kept = postprocessor.postprocess_nodes(nodes)
            assert [each.node for each in kept] == [each.node for each in nodes]

    def test_unknown_model(self, nodes: list[NodeWithScore]) -> None:
        with pytest.raises(UnknownModelError):
            RefragNodePostprocessor(model="no-such-model").postprocess_nodes(nodes)
        with pytest.raises(UnknownModelError):
            ChunkVectorTransform(model="no-such-model")


class TestIngestion:
    DOCUMENT = Document(text=" ".join(PASSAGES), metadata={"file": "a.txt"})

    def ingest(self, folder: str, store: SQLiteStore) -> list[BaseNode]:
        pipeline = IngestionPipeline(
            transformations=[
                SentenceSplitter(chunk_size=64, chunk_overlap=0),
                ChunkVectorTransform(model=folder, store=store),
                MockEmbedding(embed_dim=8),
            ]
        )
        return list(pipeline.run(documents=[self.DOCUMENT]))

    def test_questions_find_everything_encoded(self, folder: str, tmp_path: Path) -> None:
        with SQLiteStore(tmp_path / "chunks.sqlite") as store:
            nodes = self.ingest(folder, store)
            assert len(nodes) > 1
            assert set(store.yield_keys()) == {node.metadata[KEY_METADATA] for node in nodes}
        # A later process: another store object, nodes as a vector database returns them.
        restored = [TextNode.from_json(node.to_json()) for node in nodes]
        index = VectorStoreIndex(restored, embed_model=MockEmbedding(embed_dim=8))
        with SQLiteStore(tmp_path / "chunks.sqlite") as store, collect_reports() as reports:
            index.as_query_engine(
                llm=RefragLLM(model=folder, max_tokens=2),
                node_postprocessors=[RefragNodePostprocessor(store=store)],
                similarity_top_k=len(nodes),
            ).query(QUESTION)
        assert reports[0]["cache_hits"] == len(nodes)
        assert reports[0]["cache_misses"] == 0

    def test_keys_are_hidden(self, folder: str, tmp_path: Path) -> None:
        with SQLiteStore(tmp_path / "chunks.sqlite") as store:
            for node in self.ingest(folder, store):
                assert "file: a.txt" in node.get_content(metadata_mode=MetadataMode.LLM)
                for mode in (MetadataMode.LLM, MetadataMode.EMBED):
                    assert KEY_METADATA not in node.get_content(metadata_mode=mode)

    def test_other_processes_use_the_same_store(self, folder: str, tmp_path: Path) -> None:
        """A pipeline with ``num_workers`` pickles its steps."""
        with SQLiteStore(tmp_path / "chunks.sqlite") as store:
            transform = ChunkVectorTransform(model=folder, store=store)
            for copied in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
                (node,) = copied([TextNode(text=f"{PASSAGES[0]} {len(list(store.yield_keys()))}")])
                assert node.metadata[KEY_METADATA] in store.yield_keys()
                copied.store.close()

    def test_what_is_known_is_not_encoded_again(
        self, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transform = ChunkVectorTransform(model=folder, store=MemoryStore())
        nodes = [TextNode(text=text) for text in PASSAGES]
        first = transform(nodes)
        model, encoded = load_checkpoint(folder).model, []
        encode = model.encode_passages
        monkeypatch.setattr(
            model, "encode_passages", lambda texts: encoded.extend(texts) or encode(texts)
        )
        assert transform([*nodes, TextNode(text="Something new.")])[:3] == first
        assert encoded == ["Something new."]
