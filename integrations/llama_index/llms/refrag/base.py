"""An LLM that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
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
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import TokenAsyncGen

from llama_index.llms.refrag.calls import Call, Reply
from llama_index.llms.refrag.messages import resolve_completion, resolve_messages, without_media
from llama_index.llms.refrag.runs import retrieved_in_run
from llama_index.llms.refrag.structured import SchemaLLM
from llama_index.llms.refrag.tool_calling import ToolCallingLLM
from llama_index.llms.refrag.tools import schemas_of
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import AboutDecoder, about_decoder
from refrag_components.generation.tools import AnswerForm, Tools
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragLLM"]

_UNCOUNTED = 32  # one part of the window in so many


class RefragLLM(SchemaLLM, ToolCallingLLM):
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
    ``repetition_penalty``, ``stop``, ``seed``, ``reproducible``, ``logprobs``, ``top_logprobs`` and
    ``timeout`` may also be given with a single call, and so may

    * ``documents``: nodes or strings that are passages; those whose text is not in the prompt
      are put before the question;
    * ``question``: what the policy compares chunks with. By default this is the query for which the
      passages were retrieved, if the last user message contains both, else that message;
    * ``json_schema``: what JSON the answer has to be. The decoder cannot write anything else; an
      answer that ``max_tokens`` cuts off raises a ``StructuredOutputError``. ``structured_predict``
      and ``as_structured_llm`` set it;
    * ``tools`` and ``tool_choice``: what the decoder may call, or has to ("required", or a name).
      ``chat_with_tools`` and agents set them. It calls tools if its chat template lays them out
      and writes calls as JSON, or its tokenizer has a response template: see
      ``metadata.is_function_calling_model``.

    ``Settings.tokenizer = llm.token_ids`` makes LlamaIndex count tokens as this decoder does.

    Example:
        In a query engine it works with a postprocessor: ``index.as_query_engine(llm=llm,
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
        skip_media: Leave images, sounds and files of messages out, with a warning in the report,
            instead of refusing them.
    """

    model: str = DEFAULT_MODEL
    skip_media: bool = False

    _call_only: ClassVar[tuple[str, ...]] = (
        *("documents", "json_schema", "question", "tool_choice", "tools"),
    )

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises it."""
        return "RefragLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Metadata; the window is the decoder's, less a little for what LlamaIndex does not count.

        It counts neither the chat template nor, of texts that it joins, what is tokenised another
        way. It counts by ``Settings.tokenizer``: set that to ``token_ids``.

        No weights are loaded for it, unless they have yet to be fetched. A server is not told about
        tools. Agents ask for it in the event loop: where the LLM was made in one as well, weights
        have yet to be fetched, or a server is to be asked, ``await asyncio.to_thread(lambda:
        llm.metadata)`` before their first run keeps that out of it.

        Raises:
            DownloadError: If base weights cannot be fetched.
        """
        server = self._server
        if server is not None:
            window, calls_tools = server.served.window, False
        else:
            known = about_decoder(self.model, self.device)
            about = known or AboutDecoder.of(self._checkpoint().model)
            window, calls_tools = self._engine_window(about.window), about.calls_tools
        return LLMMetadata(
            context_window=window - window // _UNCOUNTED,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=calls_tools,
            model_name=self.model,
        )

    def to_payload(self) -> dict[str, Any]:
        """What instrumentation is told of the LLM.

        LlamaIndex asks for it in the event loop, so it is not the metadata, which may have to be
        looked up.
        """
        return {
            "class_name": self.class_name(),
            "model": self.model,
            "model_name": self.model,
            "is_chat_model": True,
            "num_output": self.max_tokens,
            "temperature": self.temperature,
        }

    def token_ids(self, text: str) -> list[int]:
        """Token ids of a text by the decoder's own tokenizer, for ``Settings.tokenizer``."""
        return self._token_ids(text)

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
        return self._explain(call.request, call.params.max_tokens)

    # The next two ask for the metadata in the event loop, which may have to be looked up.

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """As ``LLM.apredict``."""
        await asyncio.to_thread(lambda: self.metadata)
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """As ``LLM.astream``."""
        await asyncio.to_thread(lambda: self.metadata)
        return await super().astream(prompt, **prompt_args)

    def _check(self) -> None:
        super()._check()
        # Agents ask for the metadata in the event loop, where the tokenizer must not be loaded: it
        # is loaded here, unless this is an event loop too.
        if self.base_url is None and not _in_event_loop():
            about_decoder(self.model, self.device)

    def _chat_call(
        self,
        messages: Sequence[ChatMessage],
        *,
        documents: object = None,
        question: str | None = None,
        json_schema: Mapping[str, Any] | None = None,
        tools: Sequence[BaseTool | Mapping[str, Any]] | None = None,
        tool_choice: object = None,
        **overrides: Any,
    ) -> Call:
        settings = self._for_call(overrides)
        allowed = Tools.of(schemas_of(tools), tool_choice)
        schema = None if json_schema is None else AnswerSchema.of(json_schema)
        warnings: list[str] = []
        if self.skip_media:
            messages, warnings = without_media(messages)
        conversation = resolve_messages(messages, documents, self._resolver(retrieved_in_run()))
        question = question or conversation.question
        warnings += conversation.warnings
        request, form = settings._ask_conversation(conversation.messages, question, allowed, schema)
        return settings._call(request, warnings, form)

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
        request = settings._ask_to_continue(resolved.parts, question)
        schema = None if json_schema is None else AnswerSchema.of(json_schema)
        return settings._call(request, resolved.warnings, AnswerForm(schema=schema))

    def _call(
        self, request: Request | RemoteRequest, warnings: Sequence[str], form: AnswerForm
    ) -> Call:
        params = self._sampling_params(form)
        return Call(self._answering, request, params, self.model, warnings, form)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _chat_response(reply: Reply) -> ChatResponse:
    return ChatResponse(
        message=reply.message, delta=reply.delta, logprobs=reply.logprobs, raw=reply.raw
    )


def _completion_response(reply: Reply) -> CompletionResponse:
    return CompletionResponse(
        text=reply.text, delta=reply.delta, logprobs=reply.logprobs, raw=reply.raw
    )
