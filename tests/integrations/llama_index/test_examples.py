"""Prompts whose examples are compressed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from llama_index.core.prompts import PromptTemplate, RichPromptTemplate

from llama_index.llms.refrag import RefragExamples, RefragLLM, collect_reports
from llama_index.response_synthesizers.refrag import RefragQueryEngine
from refrag_components.modeling import RefragModel
from refrag_components.stores.memory import MemoryStore
from tests.integrations.guards import needing_a_free_loop
from tests.integrations.llama_index.conftest import PASSAGES, QUESTION, ListRetriever

LAYOUT = "{text}\nLabel: {label}"
EXAMPLES = [
    {"text": f"Ship {i} came into the harbour in {1900 + i}.", "label": ("old", "new")[i % 2]}
    for i in range(40)
]
TEMPLATE = "Label the text.\n\n{examples}\n\n{text}\nLabel:"


def prompt(examples: RefragExamples) -> PromptTemplate:
    return PromptTemplate(TEMPLATE, function_mappings={"examples": examples})


def compressed(report: Mapping[str, Any]) -> int:
    """Distinct passages of the prompt."""
    return int(report["cache_hits"] + report["cache_misses"])


def test_every_example_in_the_prompt_is_compressed(llm: RefragLLM) -> None:
    template = prompt(RefragExamples(EXAMPLES, LAYOUT))
    with collect_reports() as reports:
        llm.predict(template, text="Ship 9 left.")
        llm.predict(template, text="Ship 8 left.")
    assert compressed(reports[0]) == len(EXAMPLES)
    assert reports[0]["rate"] > 2
    assert reports[1]["cache_hits"] == len(EXAMPLES)


async def test_the_same_without_blocking(llm: RefragLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    needing = needing_a_free_loop(RefragModel.encode_passages)
    monkeypatch.setattr(RefragModel, "encode_passages", needing)
    with collect_reports() as reports:
        await llm.apredict(prompt(RefragExamples(EXAMPLES, LAYOUT, k=5)), text="Ship 9 left.")
        async for _ in await llm.astream(
            prompt(RefragExamples(EXAMPLES, LAYOUT, k=4)), text="Ship 9 left."
        ):
            pass
    assert [compressed(report) for report in reports] == [5, 4]
    assert reports[0]["cache_misses"] == 5


def test_a_rich_prompt_may_hold_them(llm: RefragLLM) -> None:
    examples = RefragExamples(EXAMPLES[:3], RichPromptTemplate("{{ text }} is {{ label }}"))
    template = RichPromptTemplate(
        "{{ examples }}\n\n{{ text }} is", function_mappings={"examples": examples}
    )
    with collect_reports() as reports:
        llm.predict(template, text="Ship 9")
    assert compressed(reports[0]) == 3


def test_a_function_may_choose_them(llm: RefragLLM) -> None:
    asked: list[str] = []

    def similar(text: str, **_: Any) -> Sequence[Mapping[str, Any]]:
        asked.append(text)
        return EXAMPLES[7:9]

    with collect_reports() as reports:
        llm.predict(prompt(RefragExamples(similar, LAYOUT)), text="Ship 9 left.")
    assert {*asked} == {"Ship 9 left."}
    assert compressed(reports[0]) == 2


@pytest.mark.parametrize("k", [0, 2, 99])
def test_at_most_k_examples_are_taken(k: int) -> None:
    shown = RefragExamples(EXAMPLES, LAYOUT, k=k, separator="\n--\n")()
    assert shown == "\n--\n".join(LAYOUT.format(**example) for example in EXAMPLES[:k])


def test_an_engine_s_prompt_may_hold_them_besides_passages(
    list_retriever: ListRetriever, llm: RefragLLM
) -> None:
    template = PromptTemplate(
        "{examples}\n\nContext:\n{context_str}\n\nQuestion: {query_str}",
        function_mappings={"examples": RefragExamples(EXAMPLES[:6], LAYOUT)},
    )
    engine = RefragQueryEngine.from_args(list_retriever, llm=llm, text_qa_template=template)
    response = engine.query(QUESTION)
    assert compressed((response.metadata or {})["refrag"]) == 6 + len(PASSAGES)


def test_their_store_is_used_and_copies_of_a_prompt_share_it(llm: RefragLLM) -> None:
    store = MemoryStore()
    template = prompt(RefragExamples(EXAMPLES[:4], LAYOUT, store=store))
    llm.predict(template.partial_format(text="Ship 9 left."))
    llm.predict(copy.deepcopy(template), text="Ship 9 left.")
    assert len(store) == 4


def test_examples_of_one_request_are_not_compressed_in_another(llm: RefragLLM) -> None:
    template = prompt(RefragExamples(EXAMPLES, LAYOUT))
    llm.predict(template, text="Ship 9 left.")
    with collect_reports() as reports:
        llm.complete(template.format(text="Ship 9 left."))
    assert compressed(reports[0]) == 0
