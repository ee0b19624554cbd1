"""What no framework decides: which message asks, where documents go."""

from __future__ import annotations

from collections.abc import Sequence

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
from refrag_components.prompts.resolver import Resolver, document_text
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key

HARBOUR = "The harbour lies north of the old town and was dug in 1907 by two hundred men."
RAIN = "Rain fell on the mountain for three days, then the river rose by two metres."
QUESTION = "When was the harbour dug?"


@pytest.fixture
def resolver() -> Resolver:
    return Resolver("f")


def passages(parts: tuple[Part, ...]) -> list[str]:
    return [part.text for part in parts if isinstance(part, PassagePart)]


def shown(parts: Sequence[Part]) -> str:
    """The text with passages in brackets."""
    return "".join(
        f"[{part.text}]" if isinstance(part, PassagePart) else part.text for part in parts
    )


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


def test_a_literal_turn_is_read_as_it_stands(resolver: Resolver) -> None:
    found = Turn("tool", [Block(f"[1] {HARBOUR}")], literal=True)
    earlier = Turn("tool", [Block(HARBOUR)])
    documents = {HARBOUR: None}
    first, second, _ = resolve_turns([earlier, found, user(QUESTION)], documents, resolver).messages
    assert passages(first.parts) == [HARBOUR]
    assert shown(second.parts) == f"[1] {HARBOUR}"
    assert passages(second.parts) == []


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


class TestWhatIsAskedIsNeverCompressed:
    """Passages are context only where they are context."""

    FAQ = "Which plug do I need for the charger model ZX-20 in Malta?"
    OTHER = "Which plug do I need for the charger model ZX-20 in Iceland?"
    CONTEXT = f"Q: {FAQ}\nA: Type G.\n\nQ: {OTHER}\nA: Type F."

    def read(self, *turns: Turn, query: str = FAQ, found: Sequence[str] = (FAQ, OTHER)) -> str:
        """The last message with passages in brackets."""
        resolver = Resolver("f", [Retrieval.of(query, found)])
        conversation = resolve_turns(turns, {}, resolver)
        return shown(conversation.messages[-1].parts)

    def test_a_question_that_is_a_passage_word_for_word(self) -> None:
        template = f"Answer from these:\n{self.CONTEXT}\n\nQuestion: {self.FAQ}"
        assert self.read(user(template)) == template.replace(self.OTHER, f"[{self.OTHER}]")

    def test_also_if_the_query_was_rewritten(self) -> None:
        template = f"Answer from these:\n{self.CONTEXT}\n\nQuestion: {self.FAQ}"
        marked = self.read(user(template), query="plug Malta")
        assert marked.endswith(f"Question: {self.FAQ}")
        assert f"[{self.OTHER}]" in marked

    def test_context_in_another_message(self) -> None:
        read = self.read(
            Turn("system", [Block(self.CONTEXT)]), user(f"Proofread this: {self.FAQ}"), query="x"
        )
        assert read == f"Proofread this: {self.FAQ}"

    def test_a_history_of_contexts(self) -> None:
        """Chat memories may keep whole prompts; the new one has a context of its own."""
        said = user(f"{self.CONTEXT}\n\nQuestion: Is it G?")
        read = self.read(said, user(f"{self.CONTEXT}\n\nQuestion: And F?"), query="And F?")
        assert (
            read
            == f"Q: [{self.FAQ}]\nA: Type G.\n\nQ: [{self.OTHER}]\nA: Type F.\n\nQuestion: And F?"
        )

    def test_a_query_around_a_passage(self) -> None:
        asked = f"Proofread this: {self.FAQ}"
        read = self.read(user(f"{self.CONTEXT}\n\nQuestion: {asked}"), query=asked)
        assert read.startswith(f"Q: [{self.FAQ}]")
        assert read.endswith(asked)

    @pytest.mark.parametrize("asked", [FAQ, f" {FAQ}\n", f'"{FAQ}"', f"{FAQ}\n\n{OTHER}"])
    def test_words_always_remain(self, asked: str) -> None:
        assert self.read(user(asked), query="x") == asked

    def test_documents_of_the_call(self) -> None:
        conversation = resolve_turns([user(self.FAQ)], {self.FAQ: None}, Resolver("f"))
        assert shown(conversation.messages[0].parts) == self.FAQ

    def test_a_prompt_without_messages(self) -> None:
        prompt = f"{self.CONTEXT}\n\nQuestion: {self.FAQ}\nAnswer:"
        resolver = Resolver("f", [Retrieval.of(self.FAQ, [self.FAQ, self.OTHER])])
        read = shown(resolve_prompt(prompt, {}, resolver).parts)
        assert read == prompt.replace(self.OTHER, f"[{self.OTHER}]")

    def test_history_is_of_its_own_message(self) -> None:
        history = Turn("assistant", [Block(HARBOUR)], attached={HARBOUR: None})
        asking = user(f"Is this right? {HARBOUR}")
        said, asked = resolve_turns([history, asking], {}, Resolver("f")).messages
        assert (shown(said.parts), shown(asked.parts)) == (f"[{HARBOUR}]", asking.text)


class TestPassagesThatAreNotFound:
    RETRIEVED = (Retrieval.of(QUESTION, [f"{HARBOUR}\n{RAIN}", RAIN[:20]]),)

    @pytest.mark.parametrize(
        ("context", "cause"),
        [
            (f"> {HARBOUR}\n> {RAIN}", "other characters between"),
            (f"{HARBOUR} {RAIN}"[:100] + "...", "cut off"),
            (f"...{RAIN}", "only their ends"),
            ("Nothing of it.", "rewritten or left out"),
        ],
    )
    def test_the_cause_is_named(self, context: str, cause: str) -> None:
        turns = [Turn("system", [Block(context)]), user(QUESTION)]
        resolver = Resolver("f", self.RETRIEVED)
        (warning,) = resolve_turns(turns, {}, resolver).warnings
        assert "of 1 passages that were retrieved" in warning
        assert cause in warning
        assert HARBOUR not in warning
        assert resolve_prompt(f"{context}\n{QUESTION}", {}, resolver).warnings == (warning,)

    def test_nothing_to_say(self) -> None:
        found = user(f"{HARBOUR}\n\n{RAIN}\n\n{QUESTION}")
        short = (Retrieval.of(QUESTION, ["In 1907."]),)
        by_hand = Resolver("f", by_hand=self.RETRIEVED)  # it may be somebody else's
        assert resolve_turns([found], {}, Resolver("f", self.RETRIEVED)).warnings == ()
        assert resolve_turns([user(QUESTION)], {}, Resolver("f", short)).warnings == ()
        assert resolve_turns([user(QUESTION)], {}, by_hand).warnings == ()
