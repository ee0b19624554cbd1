"""RefragDocumentCompressor cuts documents down for any model."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path

import pytest
from langchain_core.documents import Document

from langchain_refrag import RefragDocumentCompressor
from refrag_components.exceptions import BudgetError, UnknownPolicyError
from refrag_components.stores.memory import MemoryStore
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever

QUESTION = "When was the harbour dug?"
DOCUMENTS = [
    Document(id="h", page_content=f"{RAIN} {HARBOUR}", metadata={"source": "a.txt"}),
    Document(id="p", page_content=PRICES),
]


def compressor(folder: Path, **settings: object) -> RefragDocumentCompressor:
    return RefragDocumentCompressor(model=str(folder), store=MemoryStore(), **settings)


def test_what_is_read_quotes_the_document(tiny_folder: Path) -> None:
    found = compressor(tiny_folder, budget=0.5).compress_documents(DOCUMENTS, QUESTION)
    assert found
    by_id = {document.id: document for document in DOCUMENTS}
    for document in found:
        whole = by_id[document.id]
        spans = document.metadata["refrag_spans"]
        quoted = " […] ".join(whole.page_content[start:end] for start, end in spans)
        assert document.page_content == quoted
        assert document.metadata.items() >= whole.metadata.items()
    assert "refrag_spans" not in DOCUMENTS[0].metadata
    lengths = [sum(len(d.page_content) for d in documents) for documents in (found, DOCUMENTS)]
    assert 0 < lengths[0] < lengths[1]


async def test_it_works_in_a_compression_retriever(
    tiny_folder: Path, list_retriever: ListRetriever
) -> None:
    classic = pytest.importorskip("langchain_classic.retrievers")  # promised to nobody
    retriever = classic.ContextualCompressionRetriever(
        base_compressor=compressor(tiny_folder, budget=10, unit="words"),
        base_retriever=list_retriever,
    )
    found = retriever.invoke(QUESTION)
    assert found == await retriever.ainvoke(QUESTION)
    assert all(document.page_content for document in found)


def test_any_failure_passes_documents_on(
    tiny_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compressor(tiny_folder).compress_documents(DOCUMENTS, " ") == DOCUMENTS
    lost = compressor(tiny_folder / "nowhere")
    with caplog.at_level(logging.WARNING):
        assert lost.compress_documents(DOCUMENTS, QUESTION) == DOCUMENTS
    assert "passed on whole" in caplog.text


def test_settings_may_change_between_calls(tiny_folder: Path) -> None:
    made = compressor(tiny_folder, budget=1.0)
    assert len(made.compress_documents(DOCUMENTS, QUESTION)) == 2
    assert not made.model_copy(update={"budget": 0.0}).compress_documents(DOCUMENTS, QUESTION)
    made.budget = 0.0
    assert not made.compress_documents(DOCUMENTS, QUESTION)
    made.protect = ["1907"]
    (found,) = made.compress_documents(DOCUMENTS, QUESTION)
    assert "1907" in found.page_content


def test_one_that_was_used_can_be_copied_and_pickled(tiny_folder: Path) -> None:
    made = RefragDocumentCompressor(model=str(tiny_folder), budget=0.5)
    found = made.compress_documents(DOCUMENTS, QUESTION)
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert copied.compress_documents(DOCUMENTS, QUESTION) == found


def test_mistakes_are_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="fraction of the tokens"):
        compressor(tmp_path, budget=2.5)
    with pytest.raises(UnknownPolicyError):
        compressor(tmp_path, policy="clairvoyance")
    with pytest.raises(ValueError, match="regular expression"):
        compressor(tmp_path, protect=["("])
