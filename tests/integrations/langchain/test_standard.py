"""LangChain's own standard suites on a tiny random model, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    RetrieversIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_refrag import ChatRefrag, RefragRetriever
from tests.integrations.langchain.conftest import ListRetriever

# The suites set timeout, max_retries and api_key on every model.
pytestmark = pytest.mark.filterwarnings("ignore:ChatRefrag ignores:UserWarning")


class _TinyChat:
    @pytest.fixture(autouse=True)
    def _folders(self, tiny_folder: Path, other_folder: Path) -> None:
        self.folder = str(tiny_folder)
        self.other = str(other_folder)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatRefrag

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "device": "cpu"}


class TestChatRefragUnit(_TinyChat, ChatModelUnitTests):
    pass


class TestChatRefragIntegration(_TinyChat, ChatModelIntegrationTests):
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
