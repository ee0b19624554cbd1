"""What no framework decides: which message asks, where documents go."""

from __future__ import annotations

import pytest

from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.conversation import (
    Block,
    Turn,
    read_documents,
    resolve_prompt,
    resolve_turns,
)
from refrag_components.prompts.parts import Part, PassagePart
from refrag_components.prompts.registry import PassageRegistry
from refrag_components.prompts.resolver import Resolver, document_text
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key

HARBOUR = "The harbour lies north of the old town and was dug in 1907 by two hundred men."
RAIN = "Rain fell on the mountain for three days, then the river rose by two metres."
QUESTION = "When was the harbour dug?"


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(PassageRegistry(), "f")


def passages(parts: tuple[Part, ...]) -> list[str]:
    return [part.text for part in parts if isinstance(part, PassagePart)]


def user(*texts: str) -> Turn:
    return Turn("user", [Block(text) for text in texts])


def test_the_last_user_asks_and_else_the_last_message(resolver: Resolver) -> None:
    turns = [user("Hello."), user(QUESTION), Turn("assistant", [Block("Well,")])]
    assert resolve_turns(turns, {}, resolver).question == QUESTION
    alone = [Turn("system", [Block("Be brief.")]), Turn("assistant", [Block("Well,")])]
    assert resolve_turns(alone, {}, resolver).question == "Well,"


def test_documents_stand_where_they_are_named_or_before_what_asks(resolver: Resolver) -> None:
    store = MemoryStore()
    turns = [Turn("system", [Block(f"Read {HARBOUR}")]), user(QUESTION)]
    read, asked = resolve_turns(turns, {HARBOUR: None, f" {RAIN}\n": store}, resolver).messages
    assert passages(read.parts) == [HARBOUR]
    assert passages(asked.parts) == [RAIN]
    assert asked.parts[0] == PassagePart(RAIN, store)
    attached = Turn("assistant", [Block("Well,")], attached={RAIN: None}, mentioned={HARBOUR: None})
    first, _ = resolve_turns([attached, user(QUESTION)], {}, resolver).messages
    assert passages(first.parts) == [RAIN]


def test_blocks_are_passages_by_key_or_by_nature(resolver: Resolver) -> None:
    key = passage_key(HARBOUR, "f")
    blocks = [Block(HARBOUR, key), Block(RAIN, is_passage=True), Block(QUESTION)]
    conversation = resolve_turns([Turn("user", blocks)], {}, resolver)
    assert passages(conversation.messages[0].parts) == [HARBOUR, RAIN]
    assert conversation.question == QUESTION
    forged = resolve_turns([Turn("user", [Block(RAIN, key)])], {}, resolver)
    assert passages(forged.messages[0].parts) == []
    assert "does not belong" in forged.warnings[0]


def test_a_passage_alone_is_what_is_asked_about(resolver: Resolver) -> None:
    turn = Turn("user", [Block(HARBOUR, is_passage=True)])
    assert resolve_turns([turn], {}, resolver).question == HARBOUR
    assert resolve_prompt(HARBOUR, {HARBOUR: None}, resolver).question == HARBOUR


def test_a_prompt_begins_with_what_does_not_stand_in_it(resolver: Resolver) -> None:
    resolved = resolve_prompt(f"{HARBOUR} {QUESTION}", {RAIN: None, HARBOUR: None}, resolver)
    assert passages(resolved.parts) == [RAIN, HARBOUR]
    assert resolved.question == QUESTION


def test_nothing_to_answer(resolver: Resolver) -> None:
    with pytest.raises(EmptyInputError, match="no messages"):
        resolve_turns([], {}, resolver)
    with pytest.raises(EmptyInputError, match="last user message"):
        resolve_turns([user("  ")], {HARBOUR: None}, resolver)
    with pytest.raises(EmptyInputError, match="prompt is empty"):
        resolve_prompt(" \n", {HARBOUR: None}, resolver)


def test_documents_are_a_list() -> None:
    assert read_documents(None, lambda _: pytest.fail("read")) == {}
    assert read_documents([HARBOUR, {"text": RAIN}], lambda own: (document_text(own), None)) == {
        HARBOUR: None,
        RAIN: None,
    }
    for wrong in (HARBOUR, 3, {"text": RAIN}):
        with pytest.raises(TypeError, match="list of documents"):
            read_documents(wrong, lambda own: (document_text(own), None))
