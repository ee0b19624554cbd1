"""What LlamaIndex expects of the classes that plug into it, as tests.

Nothing here knows about REFRAG. Derive from a contract, name the class ``Test...`` and override the
fixtures that raise ``NotImplementedError``; pytest with pytest-asyncio in auto mode does the rest::

    class TestMyLLM(LLMContract):
        @pytest.fixture
        def llm(self) -> LLM:
            return MyLLM(temperature=0)

The LLM must be deterministic: answers of its sync, async, plain and streaming methods are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
    TransformComponent,
)

from tests.integrations.llama_index.llm_contract import PROMPT, LLMContract
from tests.integrations.llama_index.recording import Recording

__all__ = [
    "EmbeddingContract",
    "LLMContract",
    "NodePostprocessorContract",
    "RetrieverContract",
    "SynthesizerContract",
    "TransformContract",
]


class RetrieverContract(Recording):
    """Contract of a ``BaseRetriever``."""

    @pytest.fixture
    def retriever(self) -> BaseRetriever:
        """The retriever; it finds something for the query."""
        raise NotImplementedError

    @pytest.fixture
    def query(self) -> str:
        """What to look for."""
        return PROMPT

    def test_retrieve(self, retriever: BaseRetriever, query: str) -> None:
        found = retriever.retrieve(query)
        assert found
        assert all(isinstance(each, NodeWithScore) for each in found)
        assert texts(retriever.retrieve(QueryBundle(query))) == texts(found)

    async def test_async_is_sync(self, retriever: BaseRetriever, query: str) -> None:
        found = await retriever.aretrieve(query)
        assert texts(found) == texts(retriever.retrieve(query))
        assert [each.score for each in found] == [e.score for e in retriever.retrieve(query)]

    def test_events(self, retriever: BaseRetriever, query: str, events: list[BaseEvent]) -> None:
        retriever.retrieve(query)
        names = [event.class_name() for event in events]
        assert names[0] == "RetrievalStartEvent"
        assert names[-1] == "RetrievalEndEvent"


class NodePostprocessorContract:
    """Contract of a ``BaseNodePostprocessor``."""

    @pytest.fixture
    def postprocessor(self) -> BaseNodePostprocessor:
        """The postprocessor."""
        raise NotImplementedError

    @pytest.fixture
    def found(self) -> list[NodeWithScore]:
        """Nodes that it keeps at least one of."""
        return [
            NodeWithScore(node=TextNode(text=f"{PROMPT} It was {i} ships."), score=i / 4)
            for i in range(4)
        ]

    def test_query_in_any_form(
        self, postprocessor: BaseNodePostprocessor, found: list[NodeWithScore]
    ) -> None:
        kept = postprocessor.postprocess_nodes(found, query_bundle=QueryBundle(PROMPT))
        assert kept
        assert all(isinstance(each, NodeWithScore) for each in kept)
        assert texts(postprocessor.postprocess_nodes(found, query_str=PROMPT)) == texts(kept)

    async def test_async_is_sync(
        self, postprocessor: BaseNodePostprocessor, found: list[NodeWithScore]
    ) -> None:
        kept = await postprocessor.apostprocess_nodes(found, query_str=PROMPT)
        assert texts(kept) == texts(postprocessor.postprocess_nodes(found, query_str=PROMPT))

    def test_input_is_left_alone(
        self, postprocessor: BaseNodePostprocessor, found: list[NodeWithScore]
    ) -> None:
        before = [each.model_copy(deep=True) for each in found]
        postprocessor.postprocess_nodes(found, query_str=PROMPT)
        assert found == before

    def test_no_nodes(self, postprocessor: BaseNodePostprocessor) -> None:
        assert postprocessor.postprocess_nodes([], query_str=PROMPT) == []

    def test_round_trip(
        self, postprocessor: BaseNodePostprocessor, found: list[NodeWithScore]
    ) -> None:
        restored = type(postprocessor).from_dict(postprocessor.to_dict())
        kept = restored.postprocess_nodes(found, query_str=PROMPT)
        assert texts(kept) == texts(postprocessor.postprocess_nodes(found, query_str=PROMPT))


class TransformContract:
    """Contract of a ``TransformComponent`` that keeps the number of nodes."""

    @pytest.fixture
    def transform(self) -> TransformComponent:
        """The transform."""
        raise NotImplementedError

    @pytest.fixture
    def texts_in(self) -> list[str]:
        """Texts of the nodes to transform."""
        return [f"{PROMPT} It was {i} ships." for i in range(3)]

    async def test_async_is_sync(self, transform: TransformComponent, texts_in: list[str]) -> None:
        first = transform([TextNode(text=text) for text in texts_in])
        second = await transform.acall([TextNode(text=text) for text in texts_in])
        assert [_shown(node) for node in first] == [_shown(node) for node in second]

    def test_no_nodes(self, transform: TransformComponent) -> None:
        assert list(transform([])) == []

    def test_pipeline(self, transform: TransformComponent, texts_in: list[str]) -> None:
        """It runs in a pipeline, and again from the pipeline's cache with the same outcome."""
        pipeline = IngestionPipeline(transformations=[transform])
        nodes = [TextNode(text=text) for text in texts_in]
        first, second = pipeline.run(nodes=nodes), pipeline.run(nodes=nodes)
        assert [_shown(node) for node in first] == [_shown(node) for node in second]
        assert len(first) == len(nodes)


class EmbeddingContract(TransformContract):
    """Contract of a ``BaseEmbedding``."""

    @pytest.fixture
    def embedding(self) -> BaseEmbedding:
        """The embedding model."""
        raise NotImplementedError

    @pytest.fixture
    def transform(self, embedding: BaseEmbedding) -> TransformComponent:
        return embedding

    def test_widths(self, embedding: BaseEmbedding) -> None:
        query = embedding.get_query_embedding(PROMPT)
        assert query
        assert all(isinstance(value, float) for value in query)
        assert len(embedding.get_text_embedding("")) == len(query)

    async def test_batches(self, embedding: BaseEmbedding, texts_in: list[str]) -> None:
        """A text's vector does not depend on its neighbours, nor on how it was asked for."""
        alone = [embedding.get_text_embedding(text) for text in texts_in]
        for batch in (
            embedding.get_text_embedding_batch(texts_in),
            await embedding.aget_text_embedding_batch(texts_in),
        ):
            for row, expected in zip(batch, alone, strict=True):
                assert row == pytest.approx(expected, abs=1e-5)

    async def test_async_queries(self, embedding: BaseEmbedding) -> None:
        assert await embedding.aget_query_embedding(PROMPT) == pytest.approx(
            embedding.get_query_embedding(PROMPT)
        )


class SynthesizerContract:
    """Contract of a ``BaseSynthesizer``."""

    @pytest.fixture
    def synthesizer(self) -> BaseSynthesizer:
        """The synthesizer, not streaming, with a deterministic LLM."""
        raise NotImplementedError

    @pytest.fixture
    def streaming(self) -> BaseSynthesizer:
        """The same, streaming."""
        raise NotImplementedError

    @pytest.fixture
    def found(self) -> list[NodeWithScore]:
        """Nodes to answer from."""
        return [NodeWithScore(node=TextNode(text="Twelve ships came today, all of them empty."))]

    def test_synthesize(self, synthesizer: BaseSynthesizer, found: list[NodeWithScore]) -> None:
        response = synthesizer.synthesize(PROMPT, found, additional_source_nodes=found)
        assert isinstance(response, Response)
        assert response.response
        assert texts(response.source_nodes) == texts(found) * 2
        again = synthesizer.synthesize(QueryBundle(PROMPT), found)
        assert str(again) == response.response

    async def test_async_is_sync(
        self, synthesizer: BaseSynthesizer, found: list[NodeWithScore]
    ) -> None:
        response = await synthesizer.asynthesize(PROMPT, found)
        assert str(response) == str(synthesizer.synthesize(PROMPT, found))

    async def test_streams(
        self,
        synthesizer: BaseSynthesizer,
        streaming: BaseSynthesizer,
        found: list[NodeWithScore],
    ) -> None:
        whole = str(synthesizer.synthesize(PROMPT, found))
        response = streaming.synthesize(PROMPT, found)
        assert isinstance(response, StreamingResponse)
        assert "".join(response.response_gen) == whole
        aresponse = await streaming.asynthesize(PROMPT, found)
        assert isinstance(aresponse, AsyncStreamingResponse)
        assert "".join([token async for token in aresponse.async_response_gen()]) == whole

    def test_without_nodes(self, synthesizer: BaseSynthesizer, streaming: BaseSynthesizer) -> None:
        assert str(synthesizer.synthesize(PROMPT, [])) == "Empty Response"
        assert isinstance(streaming.synthesize(PROMPT, []), StreamingResponse)

    def test_prompts(self, synthesizer: BaseSynthesizer, found: list[NodeWithScore]) -> None:
        """Every prompt that it names can be replaced."""
        prompts = synthesizer.get_prompts()
        synthesizer.update_prompts({name: PromptTemplate("Say no.") for name in prompts})
        for template in synthesizer.get_prompts().values():
            assert isinstance(template, PromptTemplate)
            assert template.template == "Say no."


def texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    """What an LLM would read of nodes."""
    return [each.node.get_content(metadata_mode=MetadataMode.LLM) for each in nodes]


def _shown(node: BaseNode) -> tuple[str, list[float] | None]:
    return node.get_content(metadata_mode=MetadataMode.ALL), node.embedding
