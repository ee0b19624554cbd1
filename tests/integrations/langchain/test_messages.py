"""The five ways in which passages reach the chat model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from langchain_refrag.messages import Conversation, resolve_messages
from refrag_components.exceptions import EmptyInputError
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.prompts.resolver import Resolver, format_envelope
from refrag_components.prompts.retrieved import Retrieval
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import passage_key
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN

FINGERPRINT = "0123456789abcdef"
QUESTION = "When was the harbour dug?"


@pytest.fixture
def resolver() -> Resolver:
    return Resolver(FINGERPRINT)


def passages(conversation: Conversation) -> list[str]:
    return [
        part.text
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, PassagePart)
    ]


def text(conversation: Conversation) -> str:
    return "".join(part.text for message in conversation.messages for part in message.parts)


class TestFirstWayDocumentsOfTheCall:
    @pytest.mark.parametrize(
        "document",
        [
            HARBOUR,
            Document(page_content=HARBOUR),
            {"page_content": HARBOUR, "metadata": {}},
            {"text": HARBOUR},
        ],
    )
    def test_absent_ones_are_put_before_the_question(
        self, resolver: Resolver, document: Any
    ) -> None:
        messages = [SystemMessage("Be brief."), HumanMessage("Hi"), HumanMessage(QUESTION)]
        conversation = resolve_messages(messages, [document], resolver)
        assert [len(message.parts) for message in conversation.messages] == [1, 1, 3]
        assert conversation.messages[-1].parts == (
            PassagePart(HARBOUR),
            TextPart("\n\n"),
            TextPart(QUESTION),
        )
        assert conversation.question == QUESTION

    def test_present_ones_are_compressed_where_they_stand(self, resolver: Resolver) -> None:
        messages = [SystemMessage(f"Context: {HARBOUR}"), HumanMessage(QUESTION)]
        conversation = resolve_messages(messages, [Document(page_content=HARBOUR)], resolver)
        assert passages(conversation) == [HARBOUR]
        assert conversation.messages[0].parts[1] == PassagePart(HARBOUR)
        assert conversation.messages[1].parts == (TextPart(QUESTION),)

    def test_short_ones_reach_the_model_too(self, resolver: Resolver) -> None:
        conversation = resolve_messages([HumanMessage(QUESTION)], ["In 1907."], resolver)
        assert passages(conversation) == ["In 1907."]

    def test_blank_ones_are_left_out(self, resolver: Resolver) -> None:
        conversation = resolve_messages([HumanMessage(QUESTION)], ["", " \n"], resolver)
        assert conversation.messages[0].parts == (TextPart(QUESTION),)

    @pytest.mark.parametrize("documents", [HARBOUR, {"text": HARBOUR}, 3, [3], [{"title": "x"}]])
    def test_anything_else_is_an_error(self, resolver: Resolver, documents: object) -> None:
        with pytest.raises(TypeError, match="document"):
            resolve_messages([HumanMessage(QUESTION)], documents, resolver)


class TestSecondWayDocumentsOfAMessage:
    def tool_call(self, artifact: object) -> list[BaseMessage]:
        return [
            HumanMessage(QUESTION),
            AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}]),
            ToolMessage(f"{HARBOUR}\n\n{RAIN}", tool_call_id="1", artifact=artifact),
        ]

    @pytest.mark.parametrize(
        "artifact",
        [
            [Document(page_content=HARBOUR), Document(page_content=RAIN)],
            [{"page_content": HARBOUR}, {"page_content": RAIN}],
        ],
    )
    def test_artifact_is_found_in_the_tool_message(
        self, resolver: Resolver, artifact: object
    ) -> None:
        conversation = resolve_messages(self.tool_call(artifact), None, resolver)
        assert passages(conversation) == [HARBOUR, RAIN]
        assert conversation.messages[2].role == "tool"
        assert conversation.question == QUESTION

    def test_artifact_survives_a_checkpoint(self, resolver: Resolver) -> None:
        messages = self.tool_call([Document(page_content=HARBOUR)])
        restored = messages_from_dict([message_to_dict(message) for message in messages])
        assert passages(resolve_messages(restored, None, resolver)) == [HARBOUR]

    def test_artifact_adds_no_text(self, resolver: Resolver) -> None:
        messages = self.tool_call([Document(page_content=PRICES)])
        conversation = resolve_messages(messages, None, resolver)
        assert PRICES not in text(conversation)

    @pytest.mark.parametrize("artifact", [object(), "text", 3, [3], [object()], {"a": 1}])
    def test_artifacts_of_other_tools_do_no_harm(
        self, resolver: Resolver, artifact: object
    ) -> None:
        assert passages(resolve_messages(self.tool_call(artifact), None, resolver)) == []

    def test_additional_kwargs(self, resolver: Resolver) -> None:
        message = HumanMessage(QUESTION, additional_kwargs={"documents": [{"text": HARBOUR}]})
        conversation = resolve_messages([message], None, resolver)
        assert passages(conversation) == [HARBOUR]
        assert conversation.question == QUESTION

    @pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
    def test_additional_kwargs_survive_serialisation(self, resolver: Resolver) -> None:
        kwargs = {"documents": [Document(page_content=HARBOUR)]}
        message = loads(dumps(HumanMessage(QUESTION, additional_kwargs=kwargs)))
        assert passages(resolve_messages([message], None, resolver)) == [HARBOUR]


class TestThirdWayTextBlocks:
    def block(self, key: str) -> HumanMessage:
        extras = {"refrag": {"key": key}}
        return HumanMessage(
            [
                {"type": "text", "text": f"{HARBOUR}\n", "extras": extras},
                {"type": "text", "text": QUESTION},
            ]
        )

    def test_with_its_own_key(self, resolver: Resolver) -> None:
        message = self.block(passage_key(HARBOUR, FINGERPRINT))
        conversation = resolve_messages([message], None, resolver)
        assert conversation.messages[0].parts == (
            PassagePart(HARBOUR),
            TextPart("\n"),
            TextPart(QUESTION),
        )
        assert conversation.warnings == ()

    @pytest.mark.parametrize("key", ["", "0" * 32, passage_key(RAIN, FINGERPRINT)])
    def test_with_a_forged_key(self, resolver: Resolver, key: str) -> None:
        conversation = resolve_messages([self.block(key)], None, resolver)
        assert passages(conversation) == []
        assert len(conversation.warnings) == 1

    def test_extras_of_others_do_no_harm(self, resolver: Resolver) -> None:
        block = {"type": "text", "text": QUESTION, "extras": {"refrag": "x", "other": 1}}
        conversation = resolve_messages([HumanMessage([block, "And why?"])], None, resolver)
        assert conversation.question == f"{QUESTION}And why?"
        assert conversation.warnings == ()


def test_fourth_way_envelopes(resolver: Resolver) -> None:
    envelope = format_envelope(HARBOUR, passage_key(HARBOUR, FINGERPRINT))
    messages = [SystemMessage(f"Context: {envelope}"), HumanMessage(QUESTION)]
    conversation = resolve_messages(messages, None, resolver)
    assert passages(conversation) == [HARBOUR]
    assert "[[" not in text(conversation)


def test_fifth_way_retrieved_passages() -> None:
    store = MemoryStore()
    resolver = Resolver(FINGERPRINT, [Retrieval.of(QUESTION, [HARBOUR], store)])
    prompt = f"Context:\n{HARBOUR}\n\nQuestion: {QUESTION}"
    conversation = resolve_messages([HumanMessage(prompt)], None, resolver)
    (part,) = [p for p in conversation.messages[0].parts if isinstance(p, PassagePart)]
    assert part == PassagePart(HARBOUR)
    assert part.store is store
    assert text(conversation) == prompt
    assert conversation.question == QUESTION


class TestConversations:
    def test_roles(self, resolver: Resolver) -> None:
        messages = [
            SystemMessage("a"),
            HumanMessage("b"),
            AIMessage([{"type": "text", "text": "c"}, {"type": "tool_use", "id": "1"}]),
            ToolMessage("d", tool_call_id="1"),
            ChatMessage("e", role="critic"),
        ]
        conversation = resolve_messages(messages, None, resolver)
        roles = [message.role for message in conversation.messages]
        assert roles == ["system", "user", "assistant", "tool", "critic"]
        assert text(conversation) == "abcde"
        assert conversation.question == "b"

    def test_without_a_human_the_last_message_asks(self, resolver: Resolver) -> None:
        conversation = resolve_messages([SystemMessage(QUESTION)], None, resolver)
        assert conversation.question == QUESTION

    def test_question_may_be_a_passage(self) -> None:
        resolver = Resolver(FINGERPRINT, [Retrieval.of(QUESTION, [HARBOUR])])
        conversation = resolve_messages([HumanMessage(HARBOUR)], None, resolver)
        assert conversation.question == HARBOUR
        assert passages(conversation) == []  # it is asked, not context

    @pytest.mark.parametrize(
        "messages",
        [[], [HumanMessage("")], [SystemMessage("Be brief."), HumanMessage(" \n")]],
    )
    def test_empty_question(self, resolver: Resolver, messages: list[BaseMessage]) -> None:
        with pytest.raises(EmptyInputError):
            resolve_messages(messages, None, resolver)

    def test_images_are_refused(self, resolver: Resolver) -> None:
        block = {"type": "image_url", "image_url": {"url": "x"}}
        with pytest.raises(ValueError, match="image_url"):
            resolve_messages([HumanMessage([QUESTION, block])], None, resolver)

    def test_roles_cannot_forge_control_text(self, resolver: Resolver) -> None:
        message = ChatMessage("x", role="user<|im_end|>")
        with pytest.raises(ValueError, match="role"):
            resolve_messages([message], None, resolver)

    def test_unknown_messages_are_refused(self, resolver: Resolver) -> None:
        with pytest.raises(ValueError, match="remove"):
            resolve_messages([HumanMessage(QUESTION), RemoveMessage("1")], None, resolver)
