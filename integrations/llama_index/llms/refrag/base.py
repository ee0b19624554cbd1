"""An LLM that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
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
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import Model, PydanticProgramMode, TokenAsyncGen

from llama_index.llms.refrag.calls import Call, Reply
from llama_index.llms.refrag.messages import resolve_completion, resolve_messages, without_media
from llama_index.llms.refrag.runs import retrieved_in_run
from llama_index.llms.refrag.tools import first_call_only, schemas_of, selections
from refrag_components.engines.json_schema import AnswerSchema
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.remote import RemoteRequest
from refrag_components.generation.requests import Request
from refrag_components.generation.settings import AnswerSettings
from refrag_components.generation.shared_checkpoints import AboutDecoder, about_decoder
from refrag_components.generation.tools import AnswerForm, Tools
from refrag_components.generation.tools import calls_tools as can_call_tools
from refrag_components.prompts.parts import ControlPart, Message
from refrag_components.prompts.rendering import render
from refrag_components.weights.lookup import DEFAULT_MODEL

__all__ = ["RefragLLM"]

_UNCOUNTED = 32  # one part of the window in so many


class RefragLLM(AnswerSettings, FunctionCallingLLM):
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

        A decoder that calls tools is given the schema as a tool, unless
        ``pydantic_program_mode`` is "llm".

        Raises:
            StructuredOutputError: If the schema cannot be enforced, or ``max_tokens`` cuts off the
                answer.
            ValueError: If it fails a validator of the class.
        """
        llm, llm_kwargs = self._kept_to(output_cls, llm_kwargs)
        return super(RefragLLM, llm).structured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """As ``structured_predict``, without blocking the event loop."""
        llm, llm_kwargs = await asyncio.to_thread(self._kept_to, output_cls, llm_kwargs)
        return await super(RefragLLM, llm).astructured_predict(
            output_cls, prompt, llm_kwargs, **prompt_args
        )

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Model]:
        # One object, when it is whole: half of one need not be an object of its class.
        yield self.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model]:
        async def only() -> AsyncGenerator[Model]:
            yield await self.astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

        return only()

    # The next two ask for the metadata in the event loop, which may have to be looked up.

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """As ``LLM.apredict``."""
        await asyncio.to_thread(lambda: self.metadata)
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """As ``LLM.astream``."""
        await asyncio.to_thread(lambda: self.metadata)
        return await super().astream(prompt, **prompt_args)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls in a response.

        Args:
            response: What ``chat_with_tools`` and the like returned.
            error_on_no_tool_call: Whether there has to be one.
            **kwargs: Not used.

        Raises:
            ValueError: If there is none and there has to be one.
        """
        found = selections(response)
        if not found and error_on_no_tool_call:
            msg = (
                f"the answer calls no tool: {response.message.content!r}; ask with "
                "tool_required=True, or pass error_on_no_tool_call=False"
            )
            raise ValueError(msg)
        return found

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = [*(chat_history or ())]
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        if user_msg is not None:
            messages.append(user_msg)
        choice = kwargs.pop("tool_choice", None) or ("required" if tool_required else None)
        return {"messages": messages, "tools": schemas_of(tools), "tool_choice": choice, **kwargs}

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else first_call_only(response)

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
        if self.base_url is not None:
            allowed.refuse_server()
            asked = settings._ask_server(conversation.messages, question)
            return settings._call(asked, warnings, AnswerForm(schema=schema))
        tokenizer = self._checkpoint().model.tokenizer
        parts = render(conversation.messages, tokenizer, tools=allowed.schemas)
        written = "".join(part.text for part in parts if isinstance(part, ControlPart))
        form = allowed.form(tokenizer, schema, written)
        return settings._call(settings._ask([*parts, *form.prefix], question), warnings, form)

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
        schema = None if json_schema is None else AnswerSchema.of(json_schema)
        return settings._call(request, resolved.warnings, AnswerForm(schema=schema))

    def _call(
        self, request: Request | RemoteRequest, warnings: Sequence[str], form: AnswerForm
    ) -> Call:
        params = replace(
            self._sampling_params(),
            answer_schema=form.schema,
            skip_special_tokens=form.skip_special_tokens,
        )
        return Call(self._answering, request, params, self.model, warnings, form)

    def _kept_to(
        self, output_cls: type[Model], llm_kwargs: dict[str, Any] | None
    ) -> tuple[RefragLLM, dict[str, Any]]:
        """The LLM and the keywords of its call with which LlamaIndex gets an object of a class."""
        modes = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)
        may_call = self.base_url is None and self.pydantic_program_mode in modes
        if may_call and can_call_tools(self._checkpoint().model.tokenizer, by_schema=True):
            return self, dict(llm_kwargs or {})
        llm = self.model_copy(update={"pydantic_program_mode": PydanticProgramMode.LLM})
        return llm, {"json_schema": output_cls.model_json_schema(), **(llm_kwargs or {})}


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
