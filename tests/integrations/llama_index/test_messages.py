"""Messages: where passages are recognised, and what is asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
)

from llama_index.llms.refrag.messages import Conversation, resolve_messages
from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.prompts.resolver import Resolver, format_envelope
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.vectors import passage_key
from tests.integrations.llama_index.conftest import HARBOUR, QUESTION, RAIN

USER = MessageRole.USER
FOUND = Retrieval.of(QUESTION, [HARBOUR])


def resolve(
    *messages: ChatMessage, documents: tuple[str, ...] = (), retrieved: Sequence[Retrieval] = ()
) -> Conversation:
    return resolve_messages(messages, documents, Resolver("f", retrieved))


def passages(conversation: Conversation) -> list[str]:
    parts = [part for message in conversation.messages for part in message.parts]
    return [part.text for part in parts if isinstance(part, PassagePart)]


def text(conversation: Conversation) -> str:
    return "".join(part.text for message in conversation.messages for part in message.parts)


def test_retrieved_passages_in_every_turn() -> None:
    turns = [
        ChatMessage(role=MessageRole.SYSTEM, content=f"Context: {HARBOUR}"),
        ChatMessage(role=MessageRole.ASSISTANT, content=f"I read: {HARBOUR}"),
        ChatMessage(role=USER, content=QUESTION),
    ]
    conversation = resolve(*turns, retrieved=[FOUND])
    assert passages(conversation) == [HARBOUR, HARBOUR]
    assert [message.role for message in conversation.messages] == ["system", "assistant", "user"]
    assert conversation.question == QUESTION


def test_envelopes() -> None:
    good = format_envelope(HARBOUR, passage_key(HARBOUR, "f"))
    conversation = resolve(ChatMessage(role=USER, content=f"{good}\n{QUESTION}"))
    assert passages(conversation) == [HARBOUR]
    assert text(conversation) == f"{HARBOUR}\n{QUESTION}"
    forged = resolve(ChatMessage(role=USER, content=f"[[refrag:x]]{HARBOUR}[[/refrag]] When?"))
    assert passages(forged) == []
    assert "[[refrag]]" in forged.warnings[0]


def test_blocks_are_joined_as_llama_index_does() -> None:
    message = ChatMessage(role=USER, blocks=[TextBlock(text="One."), TextBlock(text="Two?")])
    assert text(resolve(message)) == message.content == "One.\nTwo?"


def test_citable_blocks_are_passages() -> None:
    block = CitableBlock(title="Harbour", source="a.txt", content=[TextBlock(text=HARBOUR)])
    conversation = resolve(ChatMessage(role=USER, blocks=[block, TextBlock(text=QUESTION)]))
    assert passages(conversation) == [HARBOUR]
    assert text(conversation) == f"Harbour\n{HARBOUR}\n{QUESTION}"


def test_documents_that_stand_nowhere_come_before_the_question() -> None:
    conversation = resolve(
        ChatMessage(role=MessageRole.SYSTEM, content=HARBOUR),
        ChatMessage(role=USER, content=QUESTION),
        documents=(RAIN, HARBOUR, RAIN),
    )
    assert passages(conversation) == [HARBOUR, RAIN]
    assert conversation.messages[1].parts[-1] == TextPart(QUESTION)
    assert conversation.question == QUESTION


def test_other_blocks() -> None:
    image = ImageBlock(url="https://example.org/harbour.png")
    drawn = ChatMessage(role=MessageRole.ASSISTANT, blocks=[image, TextBlock(text="Here.")])
    assert text(resolve(drawn, ChatMessage(role=USER, content="?"))) == "Here.?"
    with pytest.raises(ValueError, match="a user message holds a 'image' block; only text"):
        resolve(ChatMessage(role=USER, blocks=[TextBlock(text="What is it?"), image]))
    inside = CitableBlock(title="Harbour", source="a.png", content=[image])
    with pytest.raises(ValueError, match="only text is read"):
        resolve(ChatMessage(role=USER, blocks=[inside, TextBlock(text="What is it?")]))


@pytest.mark.parametrize("role", list(MessageRole))
def test_every_role(role: MessageRole) -> None:
    conversation = resolve(ChatMessage(role=role, content="Good day."))
    assert conversation.messages[0].role in ("system", "user", "assistant", "tool")


def test_blank_question() -> None:
    with pytest.raises(EmptyInputError, match="last user message"):
        resolve(ChatMessage(role=USER, content="Hm."), ChatMessage(role=USER, content="  "))


class TestPrintedLists:
    """``SimpleSummarize`` prints a list of one string instead of the string."""

    @pytest.mark.parametrize(
        "body",
        [
            HARBOUR,
            f"page: 1\n\n{RAIN}\n\n{HARBOUR}",
            f"It's {HARBOUR}",
            f'"{HARBOUR}" \\ \t \u00e9 \x07',
        ],
    )
    def test_with_a_passage_is_undone(self, body: str) -> None:
        message = ChatMessage(role=USER, content=f"See {[body]}.\nQuery: x")
        conversation = resolve(message, retrieved=[FOUND])
        assert text(conversation) == f"See {body}.\nQuery: x"
        assert HARBOUR in passages(conversation)

    @pytest.mark.parametrize(
        "content",
        [
            "['a list that somebody wrote']",
            f"['{HARBOUR}', 'and more']",
            rf"['{HARBOUR}\x']",
            "['" * 2000,
        ],
    )
    def test_anything_else_stays(self, content: str) -> None:
        message = ChatMessage(role=USER, content=content)
        assert text(resolve(message, retrieved=[FOUND])) == content


class TestQuestions:
    def question(self, content: str, *queries: str) -> str:
        retrieved = [Retrieval.of(query, [HARBOUR]) for query in queries]
        return resolve(ChatMessage(role=USER, content=content), retrieved=retrieved).question

    def test_query_inside_a_template(self) -> None:
        message = f"Context: {HARBOUR}\nQuery: {QUESTION}\nAnswer: "
        assert self.question(message, f" {QUESTION}\n") == QUESTION

    def test_longest_as_whole_words(self) -> None:
        message = f"{HARBOUR}\nWhen was the harbour dug"
        queries = ("harbour", "the harbour", "arb", "The", "? ")
        assert self.question(message, *queries) == "the harbour"
        assert self.question(f"{HARBOUR}\nharbours carb", *queries) == "harbours carb"

    def test_not_inside_passages(self) -> None:
        assert self.question(f"{HARBOUR}\nWhich town?", "the old town") == "Which town?"

    def test_without_passages_beside_it_there_is_no_template(self) -> None:
        """The query has been condensed, and one of its words stands in what the user says."""
        context = ChatMessage(role=MessageRole.SYSTEM, content=f"Context: {HARBOUR}")
        said = ChatMessage(role=USER, content="And does it have a lamp?")
        asked = Retrieval.of("lamp", [HARBOUR])
        assert resolve(context, said, retrieved=[asked]).question == "And does it have a lamp?"
