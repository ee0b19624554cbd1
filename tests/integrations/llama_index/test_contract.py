"""Every class keeps LlamaIndex' contract, and the contract holds for LlamaIndex' own classes."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.response_synthesizers import BaseSynthesizer, get_response_synthesizer
from llama_index.core.schema import TransformComponent

from llama_index.embeddings.refrag import ChunkVectorTransform, RefragEmbedding
from llama_index.llms.refrag import RefragLLM
from llama_index.postprocessor.refrag import RefragNodePostprocessor
from llama_index.response_synthesizers.refrag import RefragSynthesizer
from llama_index.retrievers.refrag import RefragRetriever
from refrag_components.engines.lanes import Lanes
from tests.integrations.guards import needing_a_free_loop
from tests.integrations.llama_index.conftest import ListRetriever
from tests.integrations.llama_index.contract import (
    EmbeddingContract,
    LLMContract,
    NodePostprocessorContract,
    RetrieverContract,
    SynthesizerContract,
    TransformContract,
)


class TestRefragLLM(LLMContract):
    @pytest.fixture
    def llm(self, folder: str) -> LLM:
        return RefragLLM(model=folder, max_tokens=12)

    @pytest.fixture
    def work(self) -> tuple[Any, str]:
        return Lanes, "step"


class TestRefragRetriever(RetrieverContract):
    @pytest.fixture(params=[False, True], ids=["registers", "encodes"])
    def retriever(
        self, list_retriever: ListRetriever, folder: str, request: pytest.FixtureRequest
    ) -> BaseRetriever:
        return RefragRetriever(list_retriever, model=folder if request.param else None)


class TestRefragNodePostprocessor(NodePostprocessorContract):
    @pytest.fixture(params=[False, True], ids=["registers", "encodes"])
    def postprocessor(self, folder: str, request: pytest.FixtureRequest) -> BaseNodePostprocessor:
        return RefragNodePostprocessor(model=folder if request.param else None)


class TestChunkVectorTransform(TransformContract):
    @pytest.fixture
    def transform(self, folder: str) -> TransformComponent:
        return ChunkVectorTransform(model=folder)


class TestRefragEmbedding(EmbeddingContract):
    @pytest.fixture
    def embedding(self, folder: str) -> BaseEmbedding:
        return RefragEmbedding(model=folder)


class TestRefragSynthesizer(SynthesizerContract):
    @pytest.fixture
    def synthesizer(self, llm: RefragLLM) -> BaseSynthesizer:
        return RefragSynthesizer(llm)

    @pytest.fixture
    def streaming(self, llm: RefragLLM) -> BaseSynthesizer:
        return RefragSynthesizer(llm, streaming=True)


class TestStockRetriever(RetrieverContract):
    @pytest.fixture
    def retriever(self, index: VectorStoreIndex) -> BaseRetriever:
        return index.as_retriever()


class TestStockPostprocessor(NodePostprocessorContract):
    @pytest.fixture
    def postprocessor(self) -> BaseNodePostprocessor:
        return SimilarityPostprocessor(similarity_cutoff=0.5)


class TestStockEmbedding(EmbeddingContract):
    @pytest.fixture
    def embedding(self) -> BaseEmbedding:
        return MockEmbedding(embed_dim=4)


class TestStockSynthesizer(SynthesizerContract):
    @pytest.fixture
    def synthesizer(self, llm: RefragLLM) -> BaseSynthesizer:
        return get_response_synthesizer(llm=llm)

    @pytest.fixture
    def streaming(self, llm: RefragLLM) -> BaseSynthesizer:
        return get_response_synthesizer(llm=llm, streaming=True)


async def test_work_on_the_event_loop_is_noticed() -> None:
    """``CustomLLM`` has async methods that block, which is what that test is there to find."""

    work = needing_a_free_loop(lambda: "No.", patience=0.01)

    class Blocking(CustomLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata()

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
            return CompletionResponse(text=work())

        @llm_completion_callback()
        def stream_complete(
            self, prompt: str, formatted: bool = False, **_: Any
        ) -> CompletionResponseGen:
            raise NotImplementedError

    with pytest.raises(AssertionError, match="the event loop is blocked"):
        await Blocking().acomplete("Do you block?")
