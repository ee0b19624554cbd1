"""From a collection of records, where chunk vectors are found with the passages, to the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.load import dumps
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from langchain_refrag import (
    ChatRefrag,
    RecordRetriever,
    RefragDocument,
    RefragEmbeddings,
    RefragRetriever,
)
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.modeling import RefragModel
from refrag_components.records import RecordCollection, make_records
from refrag_components.serving.app import create_app
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.integrations.guards import NoStore, no_encoding
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN
from tests.serving.running import running

QUESTION = "When was the harbour dug?"
TEXTS = [HARBOUR, RAIN, PRICES]

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local")


@pytest.fixture
def chat(chat: ChatRefrag) -> ChatRefrag:
    """One that knows no passage of another test."""
    return chat.model_copy(update={"store": MemoryStore()})


@pytest.fixture
def model(chat: ChatRefrag) -> RefragModel:
    return load_checkpoint(chat.model_name, chat.device).model


@pytest.fixture
def records(no_records: RecordCollection, model: RefragModel) -> RecordCollection:
    about = [{"page": number} for number in range(3)]
    no_records.put(list(make_records(model, TEXTS, about, token_vectors=True)))
    return no_records


@pytest.fixture
def search(records: RecordCollection, chat: ChatRefrag) -> RecordRetriever:
    return RecordRetriever(records=records, embeddings=RefragEmbeddings(model=chat.model_name), k=3)


@pytest.fixture
def guarded(chat: ChatRefrag, model: RefragModel, monkeypatch: pytest.MonkeyPatch) -> ChatRefrag:
    """A chat model that can make no chunk vectors and must look none up."""
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    return chat.model_copy(update={"store": NoStore()})


def chain(retriever: Runnable[Any, Any], chat: ChatRefrag) -> Runnable[str, Any]:
    def format_docs(documents: list[Document]) -> str:
        return "\n\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
    steps: Any = {"context": retriever | format_docs, "question": RunnablePassthrough()}
    return steps | prompt | chat


def without_vectors(documents: list[Document]) -> list[Document]:
    return [Document(each.page_content, metadata=each.metadata) for each in documents]


@pytest.mark.parametrize("late", [False, True])
def test_a_chain_needs_neither_encoder_nor_store(
    search: RecordRetriever,
    chat: ChatRefrag,
    model: RefragModel,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
) -> None:
    expected = chain(RefragRetriever(retriever=search | without_vectors), chat).invoke(QUESTION)
    assert expected.response_metadata["refrag"]["cache_misses"] == 3
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    search.late_interaction = late
    guarded = chat.model_copy(update={"store": NoStore()})
    retriever = RefragRetriever(retriever=search, store=NoStore())
    answer = chain(retriever, guarded).invoke(QUESTION)
    if not late:
        assert answer.text == expected.text
    report = answer.response_metadata["refrag"]
    assert (report["cache_hits"], report["cache_misses"]) == (3, 0)


async def test_a_chain_that_is_awaited(search: RecordRetriever, guarded: ChatRefrag) -> None:
    answer = await chain(RefragRetriever(retriever=search, k=2), guarded).ainvoke(QUESTION)
    assert answer.response_metadata["refrag"]["cache_hits"] == 2


def test_steps_by_hand(search: RecordRetriever, guarded: ChatRefrag) -> None:
    chat = guarded.model_copy(update={"store": None})
    documents = RefragRetriever(retriever=search).invoke(QUESTION)
    text = "\n\n".join(document.page_content for document in documents)
    answer = chat.invoke(f"Context:\n{text}\n\nQuestion: {QUESTION}")
    assert answer.response_metadata["refrag"]["cache_hits"] == 3
    passed = guarded.invoke(QUESTION, documents=search.invoke(QUESTION))
    assert passed.response_metadata["refrag"]["cache_hits"] == 3


def test_a_server_gets_the_chunk_vectors(
    search: RecordRetriever, chat: ChatRefrag, model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = RefragGenerator(model)
    expected = chain(RefragRetriever(retriever=search), chat).invoke(QUESTION)
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    with running(create_app(served, name="tiny", tokens=["secret"])) as url:
        remote = ChatRefrag(
            model="tiny", base_url=url, api_key="secret", max_tokens=chat.max_tokens
        )
        answer = chain(RefragRetriever(retriever=search), remote).invoke(QUESTION)
    assert answer.text == expected.text
    assert answer.response_metadata["refrag"]["cache_hits"] == 3


def test_documents_have_text_and_metadata_as_they_were_stored(search: RecordRetriever) -> None:
    documents = RefragRetriever(retriever=search).invoke(QUESTION)
    assert sorted(document.page_content for document in documents) == sorted(TEXTS)
    for document in documents:
        assert isinstance(document, RefragDocument)
        assert document.chunk_vectors is not None
        assert document.metadata == {
            "page": TEXTS.index(document.page_content),
            "refrag_key": document.id,
        }


def test_vectors_are_in_no_trace(search: RecordRetriever, chat: ChatRefrag) -> None:
    class Trace(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
            self.seen += [dumps(list(documents)), repr(documents)]

        def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
            self.seen += [dumps(outputs), repr(outputs)]

        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            self.seen += [repr(serialized), query, repr(kwargs)]

    trace = Trace()
    chain(RefragRetriever(retriever=search), chat).invoke(QUESTION, {"callbacks": [trace]})
    shown = "".join(trace.seen)
    assert HARBOUR in shown
    assert "chunk_vectors" not in shown
    assert "ChunkVectors" not in shown


def test_what_is_damaged_is_encoded_again(
    search: RecordRetriever, chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refrag_components.exceptions import CorruptVectorsError

    def damaged(*_: object) -> None:
        raise CorruptVectorsError("it is damaged")

    for reader in ("qdrant.read_point", "postgres.unpack_row"):
        monkeypatch.setattr(f"refrag_components.records.{reader}", damaged)
    answer = chain(RefragRetriever(retriever=search), chat).invoke(QUESTION)
    report = answer.response_metadata["refrag"]
    assert (report["cache_hits"], report["cache_misses"]) == (0, 3)


def test_vectors_do_not_follow_a_text_that_was_changed(
    search: RecordRetriever, chat: ChatRefrag, records: RecordCollection
) -> None:
    def shorten(documents: list[Document]) -> list[Document]:
        return [
            document.model_copy(update={"page_content": document.page_content[:40]})
            for document in documents
        ]

    answer = chain(RefragRetriever(retriever=search | shorten), chat).invoke(QUESTION)
    report = answer.response_metadata["refrag"]
    assert (report["cache_hits"], report["cache_misses"]) == (0, 3)


@pytest.mark.parametrize("has_model", [False, True])
def test_what_another_model_made_is_made_once_for_the_one_that_answers(
    search: RecordRetriever,
    chat: ChatRefrag,
    model: RefragModel,
    monkeypatch: pytest.MonkeyPatch,
    has_model: bool,
) -> None:
    found = search.invoke(QUESTION)
    store = MemoryStore()
    retriever = RefragRetriever(
        retriever=RunnableLambda(lambda _: found),
        store=store,
        model=chat.model_name if has_model else None,
    )
    monkeypatch.setattr(model, "fingerprint", "another")
    counts = []
    for _ in range(2):
        report = chain(retriever, chat).invoke(QUESTION).response_metadata["refrag"]
        counts.append((report["cache_hits"], report["cache_misses"]))
    assert counts == [(3, 0) if has_model else (0, 3), (3, 0)]
    assert set(store.yield_keys()) == {passage_key(text, "another") for text in TEXTS}


def test_a_model_makes_only_what_documents_do_not_carry(
    search: RecordRetriever, chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch, model: RefragModel
) -> None:
    monkeypatch.setattr(model, "encode_passages", no_encoding)
    retriever = RefragRetriever(retriever=search, model=chat.model_name, store=NoStore())
    assert all(
        isinstance(document, RefragDocument) and document.chunk_vectors is not None
        for document in retriever.invoke(QUESTION)
    )


def test_another_tenant_finds_nothing(search: RecordRetriever, records: RecordCollection) -> None:
    other = search.model_copy(update={"records": records.for_tenant("other")})
    assert RefragRetriever(retriever=other).invoke(QUESTION) == []


def test_any_embeddings_search_by_one_vector(
    no_records: RecordCollection, model: RefragModel, chat: ChatRefrag
) -> None:
    embeddings = DeterministicFakeEmbedding(size=12)
    made = make_records(model, TEXTS)
    no_records.put(
        [
            type(each)(each.text, np.array(embeddings.embed_query(each.text)), each.chunk_vectors)
            for each in made
        ]
    )
    search = RecordRetriever(records=no_records, embeddings=embeddings, k=1)
    assert [document.page_content for document in search.invoke(RAIN)] == [RAIN]
    with pytest.raises(ValueError, match="embed tokens"):
        RecordRetriever(records=no_records, embeddings=embeddings, late_interaction=True)
