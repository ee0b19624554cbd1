"""RefragExcerptPostprocessor cuts nodes down for any LLM."""

from __future__ import annotations

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from llama_index.postprocessor.refrag import RefragExcerptPostprocessor
from refrag_components.exceptions import BudgetError
from refrag_components.stores.memory import MemoryStore
from tests.integrations.llama_index.conftest import HARBOUR, PRICES, QUESTION, RAIN, ListRetriever

NODES = [
    NodeWithScore(node=TextNode(text=f"{RAIN} {HARBOUR}", metadata={"page": 3}), score=0.5),
    NodeWithScore(node=TextNode(text=PRICES), score=0.4),
]


def postprocessor(folder: str, **settings: object) -> RefragExcerptPostprocessor:
    return RefragExcerptPostprocessor(model=folder, store=MemoryStore(), **settings)


def test_what_is_read_quotes_the_node(folder: str) -> None:
    found = postprocessor(folder, budget=0.5).postprocess_nodes(NODES, QueryBundle(QUESTION))
    assert found
    whole = {each.node.node_id: each for each in NODES}
    for each in found:
        before = whole[each.node.node_id]
        spans = each.node.metadata["refrag_spans"]
        quoted = " […] ".join(before.node.get_content()[start:end] for start, end in spans)
        assert each.node.get_content() == quoted
        assert each.score == before.score
        assert "refrag_spans" not in each.node.get_content("llm")
    assert "refrag_spans" not in NODES[0].node.metadata


def test_an_engine_reads_excerpts(folder: str) -> None:
    engine = RetrieverQueryEngine.from_args(
        ListRetriever(NODES),
        llm=MockLLM(),
        node_postprocessors=[postprocessor(folder, budget=10, unit="words")],
    )
    assert PRICES not in str(engine.query(QUESTION))
    assert postprocessor(folder).class_name() == "RefragExcerptPostprocessor"


def test_what_cannot_be_cut_is_passed_on(folder: str) -> None:
    picture = NodeWithScore(node=ImageNode(image_url="http://localhost/x.png"), score=0.1)
    assert postprocessor(folder).postprocess_nodes(NODES) == NODES
    assert postprocessor("nowhere").postprocess_nodes(NODES, QueryBundle(QUESTION)) == NODES
    found = postprocessor(folder).postprocess_nodes([*NODES, picture], QueryBundle(QUESTION))
    assert found[-1] is picture


def test_odd_budgets_are_refused(folder: str) -> None:
    with pytest.raises(BudgetError):
        postprocessor(folder, budget="much")
