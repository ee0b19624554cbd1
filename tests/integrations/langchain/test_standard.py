"""LangChain's own standard suites on a tiny random model, without a network.

A random decoder calls no tools. Where a prompt holds tools, or asks for JSON, the choice of tokens
is scripted (see ``scripted.py``); template, tokens, parsing and streaming are the real ones.

What is skipped is not offered, on purpose:

* ``test_init_from_env``: a checkpoint in this process needs no key and no address.
* images, audio and PDF, in messages and in tool results: the decoder reads text.
* ``test_anthropic_inputs``: tool results inside human messages; ``ToolMessage`` is understood.
* ``test_stream_time``: times a recorded answer of a remote model.

The cache suites are for caches; there is none here that could be tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.stores import BaseStore
from langchain_tests.integration_tests import (
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from langchain_refrag import ChatRefrag, RefragEmbeddings, RefragRetriever, RefragStore
from refrag_components.stores import MemoryStore
from refrag_components.vectors import ChunkVectors
from tests.integrations.langchain.conftest import ListRetriever
from tests.integrations.scripted import ScriptedEngine
from tests.stores.contract import make

# The suites set timeout, max_retries and api_key on every model.
pytestmark = pytest.mark.filterwarnings("ignore:ChatRefrag ignores:UserWarning")


class _TinyChat:
    @pytest.fixture(autouse=True)
    def _folders(self, tool_folder: Path, other_folder: Path, scripted: ScriptedEngine) -> None:
        self.folder = str(tool_folder)
        self.other = str(other_folder)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatRefrag

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "device": "cpu"}


class TestChatRefragUnit(_TinyChat, ChatModelUnitTests):
    @pytest.mark.xfail(reason="LangChain loads packages that it does not list only if told of them")
    def test_serdes(self, model: BaseChatModel, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)  # test_serialisation.py tells it


class TestChatRefragIntegration(_TinyChat, ChatModelIntegrationTests):
    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return self.other


class TestRefragRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return RefragRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        texts = [f"Document number {i} says something about the harbour." for i in range(5)]
        documents = [Document(page_content=text) for text in texts]
        return {"retriever": ListRetriever(documents=documents)}

    @property
    def retriever_query_example(self) -> str:
        return "What about the harbour?"


class _TinyEmbeddings:
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_folder: Path) -> None:
        self.folder = str(tiny_folder)

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return RefragEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "device": "cpu"}

    @pytest.fixture
    def model(self, _folder: None) -> Embeddings:
        return self.embeddings_class(**self.embedding_model_params)


class TestRefragEmbeddingsUnit(_TinyEmbeddings, EmbeddingsUnitTests):
    pass


class TestRefragEmbeddingsIntegration(_TinyEmbeddings, EmbeddingsIntegrationTests):
    pass


class _TinyStore:
    @pytest.fixture
    def three_values(self) -> tuple[ChunkVectors, ChunkVectors, ChunkVectors]:
        return make(1), make(2), make(3)


class TestRefragStoreSync(_TinyStore, BaseStoreSyncTests[ChunkVectors]):
    @pytest.fixture
    def kv_store(self) -> BaseStore[str, ChunkVectors]:
        return RefragStore(MemoryStore())


class TestRefragStoreAsync(_TinyStore, BaseStoreAsyncTests[ChunkVectors]):
    @pytest.fixture
    async def kv_store(self) -> BaseStore[str, ChunkVectors]:
        return RefragStore(MemoryStore())
