"""A chat model that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, cast
from warnings import warn

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel

from langchain_refrag.calls import Call
from langchain_refrag.messages import resolve_messages, without_media
from langchain_refrag.runs import retrieved_in
from langchain_refrag.settings import RefragSettings
from langchain_refrag.structured import (
    answer_by_schema,
    call_by_schema,
    parse_json_answers,
    requested_schema,
)
from langchain_refrag.tools import Tool, read_tools
from refrag_components.exceptions import RefragError
from refrag_components.generation.explanation import Explanation
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import AboutDecoder, about_decoder
from refrag_components.generation.tools import AnswerForm, calls_tools
from refrag_components.prompts.retrieved import Retrieved

__all__ = ["ChatRefrag"]

_REMOTE_ONLY = ("parallel_tool_calls", "strict")


class ChatRefrag(RefragSettings, BaseChatModel):
    """Chat model that replaces any other in a retrieval chain.

    Passages of the prompt enter the decoder as chunk embeddings, one position per k tokens;
    a policy expands those that matter. Passages are recognised where a ``RefragRetriever`` of the
    same run returned them, in envelopes, in text blocks with a key, in tool artifacts, and when
    they are given as ``documents`` with the call; all other text is read as ordinary tokens, and
    so is what the last message asks. Outside any run, what a ``RefragRetriever`` returned earlier
    in the same thread or task is recognised in prompts that also hold the query.

    What happened is in ``response_metadata["refrag"]``, as a
    ``refrag_components.generation.report.Report``; ``usage_metadata`` counts decoder positions as
    input tokens.

    The decoder's own chat template presents the tools. Calls are read from its answer as JSON,
    between ``<tool_call>`` tags or bare; what looks like a call and cannot be read is in
    ``invalid_tool_calls``. Where the decoder's tokenizer carries a response template, that is
    followed instead, and what it marks as thoughts is in
    ``additional_kwargs["reasoning_content"]``.

    Example:
        ``checkpoint`` is a bundled name ("refrag-smollm2-135m"), a folder or a hub id.

        >>> from langchain_core.documents import Document
        >>> model = ChatRefrag(model=checkpoint, budget=0.25, max_tokens=8)
        >>> passage = "The harbour was dug in 1907. It lies north of the old town, behind a mole."
        >>> answer = model.invoke("When was it dug?", documents=[Document(passage)])
        >>> report = answer.response_metadata["refrag"]
        >>> report["context_positions"] < report["context_tokens"]
        True

    Attributes:
        streaming: Whether ``invoke`` streams too, for callbacks that need each token.
        skip_media: Leave images, sounds and files of messages out, with a warning in the report,
            instead of refusing them.
    """

    streaming: bool = False
    skip_media: bool = False

    _call_only: ClassVar[tuple[str, ...]] = (
        *("documents", "response_format", "stream", "tool_choice", "tools"),
    )

    @property
    def _llm_type(self) -> str:
        return "refrag-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "refrag"
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        # Nothing is fetched for it, and the weights are not loaded.
        decoder = None if self.base_url else about_decoder(self.model_name, self.device)
        if decoder is None:
            return None
        return ModelProfile(
            max_input_tokens=self._engine_window(decoder.window),
            tool_calling=decoder.calls_tools,
            # Not with tools, which a decoder that calls them may be given at any time; without
            # this, an agent gives it the schema as one of them.
            structured_output=not decoder.calls_tools,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            text_outputs=True,
        )

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # The cache key must name the checkpoint and the settings that this call really uses, under
        # a name that LangChain does not write over with the keywords of the call.
        call = self._call(stop, kwargs, warns=False)
        params = super(ChatRefrag, call)._get_invocation_params(stop=call.stop, **kwargs)
        return {**params, "refrag": call._identifying_params}

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Tells the decoder about tools.

        Args:
            tools: Tools, functions, pydantic or typed dict classes, or JSON schemas.
            tool_choice: "auto" (the default) leaves it to the decoder, "none" forbids calls,
                "any", "required" or True demands one, and a name demands that tool. The answer is
                then one call, which fits that tool's schema if ``max_tokens`` suffice.
            **kwargs: Settings of the call, as for ``bind``; "strict" and "parallel_tool_calls" are
                ignored with a warning.

        Raises:
            StructuredOutputError: If a call is asked for and a tool's schema cannot be enforced.
            ToolCallingError: If the decoder's chat template cannot lay out tools, or the choice
                does not name one of them.
        """
        # What only remote models offer must not stop a swap.
        if ignored := [name for name in _REMOTE_ONLY if kwargs.pop(name, None) is not None]:
            warn(f"bind_tools ignores {', '.join(ignored)}", stacklevel=2)
        schemas = list(read_tools(tools).schemas)
        call, _ = self._split_call(None, kwargs)
        chosen = read_tools(schemas, tool_choice)
        if call.base_url is not None:
            chosen.refuse_server()
        elif chosen.schemas and (about := about_decoder(call.model_name, call.device)):
            # Does it work? Agents ask in the event loop, so the weights are not loaded for it.
            chosen.form(about.tokenizer)
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=schemas, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers that fit a schema, see ``BaseChatModel.with_structured_output``.

        With ``method="json_schema"``, the default, the decoder can write nothing that does not fit.
        One that calls tools is told of the schema as a tool; any other learns of it only by what
        it may write, so its prompt should say what is asked for. ``method="function_calling"`` is
        the same for decoders that call tools, and for those alone. With ``method="json_mode"`` the
        prompt has to ask for JSON, and the first object of the answer is parsed: nothing is
        enforced, but half an object is not made whole.

        An answer that ``max_tokens`` cuts off raises a ``StructuredOutputError``, and one that
        fails a validator of a pydantic class what LangChain's parsers raise. With ``include_raw``
        both are reported under "parsing_error".

        Raises:
            StructuredOutputError: If the schema cannot be enforced.
            ToolCallingError: If the method is "function_calling" and the decoder's chat template
                cannot lay out tools.
            ValueError: If there is no such method.
        """
        method = kwargs.pop("method", "json_schema")
        kwargs.pop("strict", None)  # it always is
        if kwargs or method not in ("function_calling", "json_mode", "json_schema"):
            msg = (
                "with_structured_output takes include_raw and method, one of function_calling, "
                f"json_mode and json_schema; got {kwargs | {'method': method}}"
            )
            raise ValueError(msg)
        if method == "json_mode":
            return parse_json_answers(self, schema, include_raw=include_raw)
        if method == "function_calling" or self._demands_calls():
            return call_by_schema(self, schema, include_raw=include_raw)
        return answer_by_schema(self, schema, include_raw=include_raw)

    def _demands_calls(self) -> bool:
        """Whether the decoder can be made to call a tool by its schema."""
        if self.base_url is not None:
            return False
        known = about_decoder(self.model_name, self.device)
        about = known or AboutDecoder.of(self._checkpoint().model)
        return calls_tools(about.tokenizer, by_schema=True)

    def explain(
        self, input: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Explanation:
        """Tells what ``invoke`` makes of each span of a prompt, without answering it.

        Notebooks show the result as a picture; ``save`` writes it as a page.

        Args:
            input: As for ``invoke``.
            stop: As for ``invoke``.
            **kwargs: As for ``invoke``.

        Raises:
            RefragError: As ``invoke``.
        """
        call = self._call(stop, kwargs)
        messages = self._convert_input(input).to_messages()
        request, _, _ = call._request(messages, kwargs, retrieved_in(None))
        return call._explain(request, call.max_tokens)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Tool] | None = None
    ) -> int:
        """Decoder positions that a prompt takes: with chat template, tools and compression.

        What cannot be a prompt of its own, such as one that does not fit, is counted as text.

        Args:
            messages: The conversation, or a part of it.
            tools: As for ``bind_tools``.
        """
        call: dict[str, Any] = {"tools": list(read_tools(tools).schemas)} if tools else {}
        try:
            request, _, _ = self._request(messages, call, retrieved_in(None))
            generator = self._checkpoint().generator
            assert isinstance(request, Request)
            return generator.prepare(request).layout.n_positions
        except RefragError:
            return super().get_num_tokens_from_messages(messages)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._ready(messages, stop, kwargs, retrieved_in(run_manager)).generate()

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        retrieved = retrieved_in(run_manager)
        call = await to_thread(self._ready, messages, stop, kwargs, retrieved)
        return await call.agenerate()

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from self._ready(messages, stop, kwargs, retrieved_in(run_manager)).stream()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        retrieved = retrieved_in(run_manager)
        call = await to_thread(self._ready, messages, stop, kwargs, retrieved)
        async with aclosing(call.astream()) as chunks:
            async for chunk in chunks:
                yield chunk

    # LangChain asks for what identifies an answer in the event loop. The files of a checkpoint are
    # looked at for it, or a server is asked, so that is done in a thread before; it is then known.

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> LLMResult:
        """Answers conversations, see ``BaseChatModel.agenerate``."""
        await self._look(kwargs)
        return await super().agenerate(messages, stop, *args, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Streams an answer, see ``BaseChatModel.astream``."""
        await self._look(kwargs)
        chunks = cast(
            "AsyncGenerator[AIMessageChunk]", super().astream(input, config, stop=stop, **kwargs)
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def astream_events(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        version: Any = "v2",
        **kwargs: Any,
    ) -> Any:
        """Streams events, see ``BaseChatModel.astream_events``."""
        events: partial[Any] = partial(
            super().astream_events, input, config, version=version, **kwargs
        )
        if version != "v3":  # goes through ``astream``
            return events()

        async def looked() -> Any:
            await self._look(kwargs)
            return await events()

        return looked()

    def _should_stream(self, **kwargs: Any) -> bool:  # not for a callback alone
        several = (kwargs.get("n") or self.n) != 1 and "stream" not in kwargs
        return not several and super()._should_stream(**kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # What LangChain writes down of a model does not name the state of its checkpoint.
        params = {**self._get_invocation_params(stop=stop, **kwargs), **kwargs}
        return str(sorted(params.items()))

    def _ready(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        retrieved: Retrieved | None,
    ) -> Call:
        call = self._call(stop, kwargs)
        request, form, warnings = call._request(messages, kwargs, retrieved)
        params = call._sampling_params(form)
        return Call(call, call._answering, request, form, params, warnings)

    def _request(
        self,
        messages: Sequence[BaseMessage],
        call: Mapping[str, Any],
        retrieved: Retrieved | None = None,
    ) -> tuple[Request | RemoteRequest, AnswerForm, Sequence[str]]:
        """The request that messages are, what its answer looks like, and warnings.

        Args:
            messages: The conversation.
            call: Keywords of the call, among them documents, tools and response_format.
            retrieved: What the run has retrieved.
        """
        tools = read_tools(call.get("tools"), call.get("tool_choice"))
        schema = requested_schema(call.get("response_format"))
        warnings: list[str] = []
        if self.skip_media:
            messages, warnings = without_media(messages)
        conversation = resolve_messages(messages, call.get("documents"), self._resolver(retrieved))
        warnings += conversation.warnings
        request, form = self._ask_conversation(
            conversation.messages, conversation.question, tools, schema
        )
        return request, form, warnings
