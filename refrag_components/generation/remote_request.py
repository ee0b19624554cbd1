"""What is sent to ``refrag serve``: a prompt with the chunk vectors that are at hand, as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from refrag_components.engines.sampling import SamplingParams
from refrag_components.policies import DEFAULT_REST, Budget, Rest
from refrag_components.prompts.parts import Message, Part, PassagePart
from refrag_components.stores.common.base import ChunkStore
from refrag_components.vectors import passage_key
from refrag_components.vectors.transfer import to_transfer

__all__ = ["RemoteRequest", "Served", "request_body"]

logger = logging.getLogger(__name__)

# Of ``SamplingParams``: what has another name there, or is seen to here.
_NOT_SENT_AS_IT_IS = frozenset({"answer_schema", "skip_special_tokens", "timeout", "top_logprobs"})


@dataclass(frozen=True)
class Served:
    """What a server's model is.

    Attributes:
        fingerprint: Of chunk vectors that it can read.
        chunk_size: Tokens per chunk.
        width: Values per chunk vector.
        window: Longest input of the decoder in positions.
    """

    fingerprint: str
    chunk_size: int
    width: int
    window: int


@dataclass(frozen=True)
class RemoteRequest:
    """A prompt that the server lays out.

    Attributes:
        messages: The conversation; of a prompt that is continued as it is, one message.
        question: What the user asks, for policies that look at it.
        policy: Name of the policy.
        budget: How much may expand.
        rest: What becomes of chunks that do not expand, "compress" or "drop".
        store: Holds chunk vectors of passages that name no store; None for none.
        is_chat: Whether the chat template is applied.
    """

    messages: tuple[Message, ...]
    question: str
    policy: str
    budget: Budget
    rest: Rest = DEFAULT_REST
    store: ChunkStore | None = None
    is_chat: bool = True


def request_body(request: RemoteRequest, params: SamplingParams, served: Served) -> dict[str, Any]:
    """The body of a request in OpenAI's format, without the model's name.

    Args:
        request: The prompt.
        params: How its answer is decoded; of them ``timeout`` is the client's.
        served: What the server's model can read.
    """
    passages = [
        part
        for message in request.messages
        for part in message.parts
        if isinstance(part, PassagePart)
    ]
    marks = _marks(passages, request.store, served)
    body = {
        "question": request.question,
        "policy": request.policy,
        "budget": request.budget.number,
        "rest": request.rest,
        **_sampling(params),
        **_logprobs(params, is_chat=request.is_chat),
    }
    if request.is_chat:
        body["messages"] = [_message(message, marks) for message in request.messages]
    else:
        body["prompt"] = [_content(part, marks) for part in request.messages[0].parts]
    return body


def _marks(
    passages: Sequence[PassagePart], default: ChunkStore | None, served: Served
) -> dict[str, dict[str, str]]:
    """What is said of each passage: its chunk vectors if a store has them, else its key."""
    keys = {part.text: passage_key(part.text.strip(), served.fingerprint) for part in passages}
    marks = {text: {"key": key} for text, key in keys.items()}
    stores = [default if part.store is None else part.store for part in passages]
    for store in {id(store): store for store in stores if store is not None}.values():
        texts = [p.text for p, of_part in zip(passages, stores, strict=True) if of_part is store]
        try:
            rows = store.mget([keys[text] for text in texts])
        except Exception as error:  # a store only saves time; the server encodes the text
            logger.warning("chunk vectors could not be read: %s", error)
            continue
        for text, row in zip(texts, rows, strict=True):
            if row is not None and row.fingerprint == served.fingerprint:
                marks[text] = {"vectors": to_transfer(row)}
    return marks


def _message(message: Message, marks: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    sent: dict[str, Any] = {
        "role": message.role,
        "content": [_content(part, marks) for part in message.parts],
    }
    if message.tool is not None:
        sent["name"] = message.tool
    if message.tool_calls:
        sent["tool_calls"] = [
            {
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(dict(call.arguments), default=str),
                },
            }
            for call in message.tool_calls
        ]
    return sent


def _content(part: Part, marks: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "text", "text": part.text}
    return content | ({"refrag": marks[part.text]} if isinstance(part, PassagePart) else {})


def _sampling(params: SamplingParams) -> dict[str, Any]:
    names = {field.name for field in fields(params)} - _NOT_SENT_AS_IT_IS
    sampling: dict[str, Any] = {name: getattr(params, name) for name in sorted(names)}
    if params.answer_schema is not None:
        schema = {"name": "answer", "schema": json.loads(params.answer_schema.text)}
        sampling["response_format"] = {"type": "json_schema", "json_schema": schema}
    return sampling


def _logprobs(params: SamplingParams, *, is_chat: bool) -> dict[str, Any]:
    if params.top_logprobs is None or not is_chat:
        return {"logprobs": params.top_logprobs}
    return {"logprobs": True, "top_logprobs": params.top_logprobs}
