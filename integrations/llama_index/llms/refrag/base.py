"""An LLM that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms import LLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model

from llama_index.llms.refrag.calls import Call, Reply
from llama_index.llms.refrag.messages import resolve_completion, resolve_messages
from llama_index.llms.refrag.runs import retrieved_in_run
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.remote import RemoteRequest
from refrag_components.generation.requests import Request
from refrag_components.generation.settings import AnswerSettings
from refrag_components.generation.shared_checkpoints import decoder_window
from refrag_components.prompts.parts import Message
from refrag_components.prompts.rendering import render
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragLLM"]

_UNCOUNTED = 32  # one part of the window in so many


class RefragLLM(AnswerSettings, LLM):
    """LLM that replaces any other in a query engine or chat engine.

    Passages of the prompt enter the decoder as chunk embeddings, one position per k tokens;
    a policy expands those that matter. Passages are recognised where a ``RefragNodePostprocessor``,
    ``RefragRetriever`` or ``RefragSynthesizer`` saw them in the same request (a query or a turn of
    a chat), in envelopes, in citable blocks, and when they are given as ``documents`` with the
    call; all other text is read as ordinary tokens, and so is what the last message asks. Outside
    any request, what was retrieved earlier in the same thread or task is recognised in prompts
    that also hold the query.

    What happened is in ``response.raw["refrag"]``, as a
    ``refrag_components.generation.report.Report``. Query and chat engines keep only the
    text of a response; ``collect_reports`` gets the rest.

    ``policy``, ``budget``, ``rest``, ``max_tokens``, ``temperature``, ``top_p``, ``top_k``,
    ``repetition_penalty``, ``stop`` and ``seed`` may also be given with a single call, and so may

    * ``documents``: nodes or strings that are passages; those whose text is not in the prompt
      are put before the question;
    * ``question``: what the policy compares chunks with. By default this is the query for which the
      passages were retrieved, if the last user message contains both, else that message;
    * ``json_schema``: what JSON the answer has to be. The decoder cannot write anything else; an
      answer that ``max_tokens`` cuts off raises a ``StructuredOutputError``. ``structured_predict``
      and ``as_structured_llm`` set it.

    Example:
        In a query engine it stands beside a postprocessor: ``index.as_query_engine(llm=llm,
        node_postprocessors=[RefragNodePostprocessor()])``. ``checkpoint`` is a bundled name, as the
        default is, a folder or a hub id.

        >>> llm = RefragLLM(model=checkpoint, max_tokens=8)
        >>> passage = "The harbour was dug in 1907. It lies north of the old town, behind a mole."
        >>> response = llm.complete("When was it dug?", documents=[passage])
        >>> report = response.raw["refrag"]
        >>> report["context_positions"] < report["context_tokens"]
        True

    All other settings: see ``AnswerSettings``.

    Attributes:
        model: Checkpoint: a bundled name, a folder or a hub id. Loaded when first needed and shared
            by all models that use it on the same device.
    """

    model: str = DEFAULT_MODEL

    _call_only: ClassVar[tuple[str, ...]] = ("documents", "json_schema", "question")

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "RefragLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Metadata; the window is the decoder's, less a little for what LlamaIndex does not count.

        It counts neither the chat template nor, of texts that it joins, what is tokenised another
        way. It counts by ``Settings.tokenizer``: set that to ``token_ids``.

        Raises:
            DownloadError: If base weights cannot be fetched.
        """
        server = self._server
        if server is not None:
            window: int | None = server.served.window
        else:
            window = decoder_window(self.model, self.device)
        if window is None:
            window = self._checkpoint().model.window
        return LLMMetadata(
            context_window=window - window // _UNCOUNTED,
            num_output=self.max_tokens,
            is_chat_model=True,
            model_name=self.model,
        )

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text by the decoder's own tokenizer, for ``Settings.tokenizer``."""
        ids: list[int] = self._checkpoint().model.chunker.chunk([text])[0].token_ids.tolist()
        return ids

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers a conversation.

        Raises:
            TypeError: If a keyword is not one of those above.
            ValueError: If a message holds something other than text.
            RefragError: As the constructor; if there is nothing to answer or no room for it; if
                the ``json_schema`` cannot be enforced.
        """
        return _chat_response(self._chat_call(messages, **kwargs).reply())

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """As ``chat``, streamed; the last response carries ``raw``."""
        replies = self._chat_call(messages, **kwargs).replies()
        return (_chat_response(reply) for reply in replies)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As ``chat``, without blocking the event loop; a cancelled task ends the decoding."""
        call = await asyncio.to_thread(self._chat_call, messages, **kwargs)
        return _chat_response(await call.areply())

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """As ``stream_chat``, without blocking the event loop."""
        call = await asyncio.to_thread(self._chat_call, messages, **kwargs)
        replies = await call.areplies()
        return (_chat_response(reply) async for reply in replies)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answers a prompt.

        Args:
            prompt: The prompt.
            formatted: Continue it as it is, instead of answering it as a user's message.
            **kwargs: As described above.

        Raises:
            TypeError: If a keyword is not one of those above.
            RefragError: As the constructor; if there is nothing to answer or no room for it.
        """
        return _completion_response(self._complete_call(prompt, formatted, **kwargs).reply())

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """As ``complete``, streamed; the last response carries ``raw``."""
        replies = self._complete_call(prompt, formatted, **kwargs).replies()
        return (_completion_response(reply) for reply in replies)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """As ``complete``, without blocking the event loop."""
        call = await asyncio.to_thread(self._complete_call, prompt, formatted, **kwargs)
        return _completion_response(await call.areply())

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """As ``stream_complete``, without blocking the event loop."""
        call = await asyncio.to_thread(self._complete_call, prompt, formatted, **kwargs)
        replies = await call.areplies()
        return (_completion_response(reply) async for reply in replies)

    def explain(self, prompt: str, **kwargs: Any) -> Explanation:
        """Tells what ``complete`` makes of each span of a prompt, without answering it.

        Notebooks show the result as a picture; ``save`` writes it as a page.

        Args:
            prompt: The prompt.
            **kwargs: As for ``complete``.

        Raises:
            TypeError: If a keyword is not one of those above.
            RefragError: As ``complete``.
        """
        self._checkpoint()  # a server does not tell
        call = self._complete_call(prompt, False, **kwargs)
        assert isinstance(call.request, Request)
        generator = self._checkpoint().generator
        prepared = generator.prepare(call.request, max_tokens=call.params.max_tokens)
        return generator.explain(prepared, call.request.question)

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """As ``LLM.structured_predict``; the answer is kept to the schema that the prompt is given.

        Raises:
            StructuredOutputError: If the schema cannot be enforced, or ``max_tokens`` cuts off the
                answer.
            ValueError: If it fails a validator of the class.
        """
        llm_kwargs = _kept_to(output_cls, llm_kwargs)
        return super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """As ``structured_predict``, in a thread."""
        llm_kwargs = _kept_to(output_cls, llm_kwargs)
        return await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    def _chat_call(
        self,
        messages: Sequence[ChatMessage],
        *,
        documents: object = None,
        question: str | None = None,
        json_schema: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Call:
        settings = self._for_call(overrides)
        conversation = resolve_messages(messages, documents, self._resolver(retrieved_in_run()))
        question = question or conversation.question
        request: Request | RemoteRequest
        if self.base_url is None:
            parts = render(conversation.messages, self._checkpoint().model.tokenizer)
            request = settings._ask(parts, question)
        else:
            request = settings._ask_server(conversation.messages, question)
        return settings._call(request, conversation.warnings, json_schema)

    def _complete_call(
        self,
        prompt: str,
        formatted: bool,
        *,
        documents: object = None,
        question: str | None = None,
        json_schema: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> Call:
        if not formatted:
            message = ChatMessage(role=MessageRole.USER, content=prompt)
            return self._chat_call(
                [message],
                documents=documents,
                question=question,
                json_schema=json_schema,
                **overrides,
            )
        settings = self._for_call(overrides)
        resolved = resolve_completion(prompt, documents, self._resolver(retrieved_in_run()))
        question = question or resolved.question
        request: Request | RemoteRequest
        if self.base_url is None:
            request = settings._ask(resolved.parts, question)
        else:
            turn = Message("user", resolved.parts)
            request = settings._ask_server([turn], question, is_chat=False)
        return settings._call(request, resolved.warnings, json_schema)

    def _call(
        self,
        request: Request | RemoteRequest,
        warnings: Sequence[str],
        json_schema: Mapping[str, Any] | None,
    ) -> Call:
        schema = None if json_schema is None else AnswerSchema.of(json_schema)
        params = replace(self._sampling_params(), answer_schema=schema)
        return Call(self._answering, request, params, self.model, warnings)


def _kept_to(output_cls: type[Model], llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {"json_schema": output_cls.model_json_schema(), **(llm_kwargs or {})}


def _chat_response(reply: Reply) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=reply.text)
    return ChatResponse(message=message, delta=reply.delta, raw=reply.raw)


def _completion_response(reply: Reply) -> CompletionResponse:
    return CompletionResponse(text=reply.text, delta=reply.delta, raw=reply.raw)
