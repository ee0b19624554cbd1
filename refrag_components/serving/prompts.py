"""Bodies of requests to requests of the generator; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.engines.sampling import SamplingParams
from refrag_components.exceptions import (
    FingerprintMismatchError,
    InvalidVectorsError,
    RefragError,
    StructuredOutputError,
)
from refrag_components.generation.requests import Request
from refrag_components.policies import check_policy, parse_budget
from refrag_components.prompts.conversation import Block, Turn, resolve_turns
from refrag_components.prompts.parts import Part
from refrag_components.prompts.rendering import render
from refrag_components.prompts.resolver import Resolver
from refrag_components.serving.bodies import ChatBody, CompletionBody, ContentPart, SettingsBody
from refrag_components.serving.sent import SentVectors
from refrag_components.vectors import ChunkVectors, passage_key
from refrag_components.vectors.transfer import from_transfer

if TYPE_CHECKING:
    from refrag_components.generation.generator import RefragGenerator

__all__ = ["PromptReader", "TooManyPassagesError", "sampling_params"]


class TooManyPassagesError(RefragError, ValueError):
    """More passages than the server takes."""


class PromptReader:
    """Reads the prompts of requests.

    Args:
        generator: Will answer them.
        max_passages: Largest number of passages of a request.
    """

    def __init__(self, generator: RefragGenerator, max_passages: int) -> None:
        self._generator = generator
        self._model = generator.model
        self._max_passages = max_passages

    def chat(self, body: ChatBody) -> tuple[Request, Sequence[str]]:
        """The request that a conversation is, and warnings about its passages.

        Raises:
            RefragError: If passages, question or settings cannot be used.
            TooManyPassagesError: If there are too many.
        """
        turns = [
            Turn(
                role="system" if message.role == "developer" else message.role,
                blocks=[_block(part) for part in message.parts],
                calls=tuple(call.read() for call in message.tool_calls or ()),
                tool=message.name if message.role == "tool" else None,
            )
            for message in body.messages
        ]
        parts = [part for message in body.messages for part in message.parts]
        resolver = self._resolver([*parts, *body.passages])
        documents = {part.text: None for part in body.passages}
        conversation = resolve_turns(turns, documents, resolver)
        rendered = render(conversation.messages, self._model.tokenizer)
        return self._request(body, rendered, conversation.question), conversation.warnings

    def completion(self, body: CompletionBody) -> tuple[Request, Sequence[str]]:
        """The request that a prompt is, which is continued as it is.

        Raises:
            RefragError: As ``chat``.
            TooManyPassagesError: As ``chat``.
        """
        resolver = self._resolver([*body.parts, *body.passages])
        turn = Turn("user", [_block(part) for part in body.parts])
        documents = {part.text: None for part in body.passages}
        prompt = resolve_turns([turn], documents, resolver)
        parts: Sequence[Part] = prompt.messages[0].parts
        return self._request(body, parts, prompt.question), prompt.warnings

    def _request(self, body: SettingsBody, parts: Sequence[Any], question: str) -> Request:
        if body.policy is not None:
            check_policy(body.policy)
        budget = None if body.budget is None else parse_budget(body.budget)
        return Request(parts, body.question or question, body.policy, budget, body.rest)

    def _resolver(self, parts: Sequence[ContentPart]) -> Resolver:
        passages = [part for part in parts if part.refrag is not None]
        if len(passages) > self._max_passages:
            msg = (
                f"the request has {len(passages)} passages, this server takes at most "
                f"{self._max_passages}; retrieve fewer"
            )
            raise TooManyPassagesError(msg)
        sent: dict[str, ChunkVectors] = {}
        for part in passages:
            assert part.refrag is not None
            text = part.text.strip()
            key = passage_key(text, self._model.fingerprint)
            if part.refrag.key not in (None, key):
                msg = (
                    "the key of a passage does not belong to its text under this server's "
                    f"fingerprint, {self._model.fingerprint}; index with the model that the server "
                    "runs, or leave the key out"
                )
                raise FingerprintMismatchError(msg)
            if part.refrag.vectors is not None:
                sent[key] = self._checked(text, from_transfer(part.refrag.vectors))
        return Resolver(self._model.fingerprint, store=SentVectors(sent, self._generator.store))

    def _checked(self, text: str, vectors: ChunkVectors) -> ChunkVectors:
        """Refuses chunk vectors of another model or another text."""
        model = self._model
        if vectors.fingerprint != model.fingerprint:
            msg = (
                f"chunk vectors carry fingerprint {vectors.fingerprint}, this server's model has "
                f"{model.fingerprint}; encode the passages with that model, or leave the vectors "
                "out"
            )
            raise FingerprintMismatchError(msg)
        if (vectors.width, vectors.chunk_size) != (model.vector_width, model.config.chunk_size):
            msg = (
                f"chunk vectors have width {vectors.width} and chunks of {vectors.chunk_size} "
                f"tokens, this server's model has width {model.vector_width} and chunks of "
                f"{model.config.chunk_size}; encode the passages with that model, or leave the "
                "vectors out"
            )
            raise InvalidVectorsError(msg)
        (chunked,) = model.chunker.chunk([text], offsets=False)
        if not np.array_equal(chunked.token_ids, vectors.token_ids):
            msg = (
                "the token ids of chunk vectors are not those of the passage next to them; send "
                "the vectors that were made of exactly this text, or leave them out"
            )
            raise InvalidVectorsError(msg)
        return vectors


def sampling_params(body: ChatBody | CompletionBody) -> SamplingParams:
    """How the answer is drawn.

    Raises:
        SamplingError: If a value is outside its range.
        StructuredOutputError: If the response format cannot be enforced.
    """
    longest = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    given: dict[str, Any] = {
        field.name: getattr(body, field.name)
        for field in fields(SamplingParams)
        if field.name in SettingsBody.model_fields
    }
    given |= {
        "max_tokens": longest,
        "answer_schema": _schema(body.response_format),
        "top_logprobs": body.n_logprobs,
    }
    arguments: dict[str, Any] = {name: given[name] for name in given if given[name] is not None}
    return SamplingParams(**arguments)


def _schema(response_format: dict[str, Any] | None) -> AnswerSchema | None:
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        msg = 'response_format must be of type "text" or "json_schema", the latter with a schema'
        raise StructuredOutputError(msg)
    return AnswerSchema.of(schema)


def _block(part: ContentPart) -> Block:
    return Block(part.text, is_passage=part.refrag is not None)
