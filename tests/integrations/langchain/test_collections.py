"""Several collections behind one retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_refrag import ChatRefrag, RefragCollections, RefragRetriever
from refrag_components.modeling import RefragModel
from tests.integrations.conftest import Watch
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever
from tests.integrations.langchain.test_chains import QUESTION, lcel

COPIES = [HARBOUR, HARBOUR.replace("and was", "and it was"), HARBOUR.replace("men", "women")]


def listed(*texts: str) -> ListRetriever:
    return ListRetriever(documents=[Document(page_content=text) for text in texts])


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def test_each_collection_has_its_share_and_a_text_comes_once() -> None:
    both = RefragCollections(
        retrievers=[listed("a", "b", "c", "d"), listed("b", "x", "y")], shares=[2, 1], k=6
    )
    found = texts(both.invoke("?"))
    assert len(found) == len({*found}) == 6
    assert len({*found} & {"x", "y"}) == 2
    assert texts(both.invoke("?", k=2)) == ["a", "b"]


async def test_the_same_without_blocking(tiny_folder: Path, watch: Watch) -> None:
    both = RefragCollections(
        retrievers=[listed("a", "b"), listed("b", "x")], k=3, diversity=0.5, model=str(tiny_folder)
    )
    expected = texts(both.invoke("?"))
    watch(RefragModel, "search_vectors")
    assert texts(await both.ainvoke("?")) == expected
    assert watch.ran == {"search_vectors": [False, False]}


def test_with_a_diversity_copies_of_a_passage_wait(tiny_folder: Path) -> None:
    collection = listed(*COPIES, RAIN, PRICES)
    similar: Any = {"retrievers": [collection], "model": str(tiny_folder), "k": 2}
    assert texts(RefragCollections(**similar).invoke(HARBOUR)) == COPIES[:2]
    first, second = texts(RefragCollections(**similar, diversity=0.9).invoke(HARBOUR))
    assert first == HARBOUR
    assert second not in COPIES


def test_a_chain_compresses_what_it_finds(chat: ChatRefrag) -> None:
    both = RefragCollections(retrievers=[listed(HARBOUR), listed(RAIN, HARBOUR)])
    retriever = RefragRetriever(retriever=both)
    reports: list[dict[str, Any]] = []

    def noted(message: Any) -> str:
        reports.append(message.response_metadata["refrag"])
        return str(message.text)

    chain = lcel(retriever, chat | noted)  # type: ignore[arg-type]
    chain.invoke(QUESTION)
    (report,) = reports
    assert report["cache_hits"] + report["cache_misses"] == 2


def test_what_makes_no_retriever_is_refused() -> None:
    with pytest.raises(ValidationError):
        RefragCollections(retrievers=[])
    with pytest.raises(ValidationError):
        RefragCollections(retrievers=[listed("a")], diversity=2)
    with pytest.raises(ValueError, match="each of the 2 collections"):
        RefragCollections(retrievers=[listed("a"), listed("b")], shares=[1]).invoke("?")
