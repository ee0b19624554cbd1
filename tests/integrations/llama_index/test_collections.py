"""Several collections behind one retriever."""

from __future__ import annotations

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index.llms.refrag import RefragLLM
from llama_index.response_synthesizers.refrag import RefragQueryEngine
from llama_index.retrievers.refrag import RefragCollections
from refrag_components.modeling import RefragModel
from tests.integrations.conftest import Watch
from tests.integrations.llama_index.conftest import (
    HARBOUR,
    PRICES,
    QUESTION,
    RAIN,
    ListRetriever,
)
from tests.integrations.llama_index.contract import RetrieverContract

COPIES = [HARBOUR, HARBOUR.replace("and was", "and it was"), HARBOUR.replace("men", "women")]


def listed(*texts: str) -> ListRetriever:
    return ListRetriever(
        [NodeWithScore(node=TextNode(text=text), score=1 / (i + 1)) for i, text in enumerate(texts)]
    )


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [each.text for each in nodes]


class TestContract(RetrieverContract):
    @pytest.fixture(params=[0.0, 0.5])
    def retriever(self, request: pytest.FixtureRequest, folder: str) -> BaseRetriever:
        collections = [listed(HARBOUR, RAIN), listed(PRICES)]
        return RefragCollections(collections, diversity=request.param, model=folder)


def test_each_collection_has_its_share_and_a_text_comes_once() -> None:
    both = RefragCollections(
        [listed("a", "b", "c", "d"), listed("b", "x", "y")], shares=[2, 1], similarity_top_k=6
    )
    found = texts(both.retrieve("?"))
    assert len(found) == len({*found}) == 6
    assert len({*found} & {"x", "y"}) == 2


def test_nodes_keep_their_scores() -> None:
    both = RefragCollections([listed("a", "b"), listed("x", "y")])
    assert {each.text: each.score for each in both.retrieve("?")} == {
        **{"a": 1.0, "b": 0.5},
        **{"x": 1.0, "y": 0.5},
    }


async def test_the_same_without_blocking(folder: str, watch: Watch) -> None:
    both = RefragCollections(
        [listed("a", "b"), listed("b", "x")], similarity_top_k=3, diversity=0.5, model=folder
    )
    expected = texts(both.retrieve("?"))
    watch(RefragModel, "search_vectors")
    assert texts(await both.aretrieve("?")) == expected
    assert watch.ran == {"search_vectors": [False, False]}


def test_with_a_diversity_copies_of_a_passage_wait(folder: str) -> None:
    collection = listed(*COPIES, RAIN, PRICES)
    alike = RefragCollections([collection], similarity_top_k=2, model="no-such-model")
    assert texts(alike.retrieve(HARBOUR)) == COPIES[:2]
    diverse = RefragCollections([collection], similarity_top_k=2, diversity=0.9, model=folder)
    first, second = texts(diverse.retrieve(HARBOUR))
    assert first == HARBOUR
    assert second not in COPIES


def test_an_engine_compresses_what_it_finds(llm: RefragLLM) -> None:
    both = RefragCollections([listed(HARBOUR), listed(RAIN, HARBOUR)])
    response = RefragQueryEngine.from_args(both, llm=llm).query(QUESTION)
    report = (response.metadata or {})["refrag"]
    assert report["cache_hits"] + report["cache_misses"] == 2


def test_what_makes_no_retriever_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RefragCollections([])
    with pytest.raises(ValueError, match="from 0 to 1"):
        RefragCollections([listed("a")], diversity=2)
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"similarity_top_k must be at least 1, got {number}"):
            RefragCollections([listed("a")], similarity_top_k=number)
    with pytest.raises(ValueError, match="each of the 2 collections"):
        RefragCollections([listed("a"), listed("b")], shares=[1]).retrieve("?")
