"""Few-shot prompts whose examples are compressed."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.example_selectors import LengthBasedExampleSelector
from langchain_core.messages import AIMessage
from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate

from langchain_refrag import ChatRefrag, RefragExampleSelector
from refrag_components.modeling import RefragModel
from refrag_components.stores.memory import MemoryStore
from tests.integrations.guards import needing_a_free_loop

LAYOUT = PromptTemplate.from_template("{text}\nLabel: {label}")
EXAMPLES = [
    {"text": f"Ship {i} came into the harbour in {1900 + i}.", "label": ("old", "new")[i % 2]}
    for i in range(40)
]


def chain(selector: RefragExampleSelector, model: ChatRefrag) -> Any:
    prompt = FewShotPromptTemplate(
        example_selector=selector,
        example_prompt=LAYOUT,
        prefix="Label the text.",
        suffix="{text}\nLabel:",
        input_variables=["text"],
    )
    return prompt | model


def report(message: AIMessage) -> dict[str, Any]:
    return dict(message.response_metadata["refrag"])


def compressed(message: AIMessage) -> int:
    """Distinct passages of the prompt."""
    found = report(message)
    return int(found["cache_hits"] + found["cache_misses"])


def test_every_example_in_the_prompt_is_compressed(chat: ChatRefrag) -> None:
    found = chain(RefragExampleSelector(EXAMPLES, LAYOUT), chat).invoke({"text": "Ship 9 left."})
    assert compressed(found) == len(EXAMPLES)
    assert report(found)["rate"] > 2
    again = chain(RefragExampleSelector(EXAMPLES, LAYOUT), chat).invoke({"text": "Ship 8 left."})
    assert report(again)["cache_hits"] == len(EXAMPLES)


async def test_the_same_without_blocking(chat: ChatRefrag, monkeypatch: pytest.MonkeyPatch) -> None:
    needing = needing_a_free_loop(RefragModel.encode_passages)
    monkeypatch.setattr(RefragModel, "encode_passages", needing)
    chat = chat.model_copy(update={"store": MemoryStore()})
    selector = RefragExampleSelector(EXAMPLES, LAYOUT, k=5)
    found = await chain(selector, chat).ainvoke({"text": "Ship 9 left."})
    assert compressed(found) == report(found)["cache_misses"] == 5


def test_another_selector_chooses(chat: ChatRefrag) -> None:
    short = LengthBasedExampleSelector(examples=EXAMPLES[:3], example_prompt=LAYOUT, max_length=24)
    selector = RefragExampleSelector(short, LAYOUT)
    chosen = selector.select_examples({"text": "Ship 9 left."})
    assert 0 < len(chosen) < 3
    selector.add_example(EXAMPLES[5])
    assert EXAMPLES[5] in short.examples
    found = chain(selector, chat).invoke({"text": "Ship 9 left."})
    assert compressed(found) == len(chosen)


@pytest.mark.parametrize("k", [0, 2, 99])
def test_at_most_k_examples_are_selected(k: int) -> None:
    selector = RefragExampleSelector(EXAMPLES, LAYOUT, k=k)
    assert selector.select_examples({}) == EXAMPLES[:k]
    selector.add_example({"text": "A", "label": "b"})
    assert len(selector.examples) == len(EXAMPLES) + 1  # type: ignore[arg-type]


def test_examples_of_one_run_are_not_compressed_in_another(chat: ChatRefrag) -> None:
    chain(RefragExampleSelector(EXAMPLES, LAYOUT), chat).invoke({"text": "Ship 9 left."})
    alone = chat.invoke(LAYOUT.format(**EXAMPLES[0]) + "\n\nShip 9 left.\nLabel:")
    assert compressed(alone) == 0
