"""What clients send: OpenAI's requests, with passages as content parts."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    field_validator,
    model_validator,
)

from refrag_components.policies import Rest
from refrag_components.prompts.parts import ToolCall

__all__ = ["ChatBody", "CompletionBody", "ContentPart", "Passage", "SettingsBody"]

_WITHOUT = (
    *("audio", "best_of", "echo", "frequency_penalty", "function_call", "functions", "logit_bias"),
    *("modalities", "prediction", "presence_penalty", "suffix", "tools", "web_search_options"),
)


class Passage(BaseModel):
    """Says that a text is a passage, and where its chunk vectors are.

    Attributes:
        key: ``passage_key`` of the text under the fingerprint that ``/v1/models`` names; the server
            finds the chunk vectors in its store under the same key, and checks that it is the key.
        vectors: The chunk vectors, see ``refrag_components.vectors.transfer``; without them the
            server looks them up, or encodes the text.
    """

    model_config = ConfigDict(extra="forbid")

    key: str | None = None
    vectors: str | None = None


class ContentPart(BaseModel):
    """A stretch of a message's text, which is a passage if it has ``refrag``."""

    type: Literal["text"]
    text: str
    refrag: Passage | None = None


class _Document(BaseModel):
    text: str
    refrag: Passage | None = None


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    function: _Function

    def read(self) -> ToolCall:
        """The call; arguments that are not a JSON object are kept as text."""
        try:
            arguments = json.loads(self.function.arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            arguments = {"arguments": self.function.arguments}
        return ToolCall(self.function.name, arguments)


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None

    @property
    def parts(self) -> list[ContentPart]:
        """The content, as parts."""
        if isinstance(self.content, list):
            return self.content
        return [ContentPart(type="text", text=self.content)] if self.content else []


class _StreamOptions(BaseModel):
    include_usage: bool = False


class SettingsBody(BaseModel):
    """What a request says besides its prompt; what is missing has the library's default.

    Attributes:
        documents: Passages that the prompt does not contain; put before the question.
        question: What the policy compares chunks with.
        policy: As in ``AnswerSettings``.
        budget: As in ``AnswerSettings``.
        rest: As in ``AnswerSettings``.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    documents: list[str | _Document] = Field(default_factory=list)
    question: str | None = None
    policy: str | None = None
    budget: float | int | str | None = None
    rest: Rest | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    reproducible: bool | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("n")
    @classmethod
    def _one_answer(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            msg = "this server gives one answer per request; leave n out and ask again"
            raise ValueError(msg)
        return n

    @model_validator(mode="after")
    def _without(self) -> SettingsBody:
        if unknown := sorted(name for name in _WITHOUT if (self.model_extra or {}).get(name)):
            msg = f"this server does not offer {', '.join(unknown)}; leave it out"
            raise ValueError(msg)
        return self

    @property
    def passages(self) -> list[ContentPart]:
        """The documents, as parts."""
        none = Passage()
        return [
            ContentPart(type="text", text=document, refrag=none)
            if isinstance(document, str)
            else ContentPart(type="text", text=document.text, refrag=document.refrag or none)
            for document in self.documents
        ]


class ChatBody(SettingsBody):
    """A request for ``/v1/chat/completions``."""

    messages: list[_Message] = Field(min_length=1)
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None

    @property
    def n_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each token; None for no token."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _top_of_something(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            msg = "top_logprobs needs logprobs to be true"
            raise ValueError(msg)
        return self


class CompletionBody(SettingsBody):
    """A request for ``/v1/completions``; the prompt may be parts, as a message's content may."""

    prompt: str | list[ContentPart]
    logprobs: StrictInt | None = None

    @property
    def n_logprobs(self) -> int | None:
        """As for ``ChatBody``."""
        return self.logprobs

    @property
    def parts(self) -> list[ContentPart]:
        """The prompt, as parts."""
        if isinstance(self.prompt, str):
            return [ContentPart(type="text", text=self.prompt)]
        return self.prompt
