"""A text model that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

from asyncio import TaskGroup, to_thread
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import PrivateAttr

from langchain_refrag.errors import as_langchain_errors
from langchain_refrag.runs import retrieved_in
from langchain_refrag.settings import RefragSettings
from refrag_components.generation.remote import RemoteRequest
from refrag_components.generation.requests import Answer, AnswerDelta, Request
from refrag_components.prompts.conversation import resolve_prompt
from refrag_components.prompts.parts import Message
from refrag_components.prompts.retrieved import Retrieved

__all__ = ["RefragLLM"]


class RefragLLM(RefragSettings, BaseLLM):
    """Text model: the prompt is continued as it is, without a chat template.

    Passages are recognised where a ``RefragRetriever`` of the same run returned them and in
    envelopes, as by ``ChatRefrag``. ``batch``
    decodes its prompts together. What happened is in ``generation_info["refrag"]``.

    Example:
        ```python
        from langchain_refrag import RefragLLM

        model = RefragLLM(model="refrag-smollm2-135m")
        chain = {"context": retriever | format_docs, "question": passthrough} | prompt | model
        ```
    """

    # By prompt, what the run of each such prompt has retrieved; only in the copy for one call.
    _runs: dict[str, list[Retrieved | None]] = PrivateAttr(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "refrag"

    # BaseLLM keys its cache by the model's settings and ignores those of the call: a call with
    # other settings is therefore made on a copy of the model.

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Continues several prompts, see ``BaseLLM.generate``."""
        call, rest = self._split_call(stop, kwargs)
        call = call._in_runs(prompts, callbacks)
        return super(RefragLLM, call).generate(prompts, call.stop, callbacks, **rest)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Continues several prompts, see ``BaseLLM.agenerate``."""
        call, rest = self._split_call(stop, kwargs)
        call = call._in_runs(prompts, callbacks)
        return await super(RefragLLM, call).agenerate(prompts, call.stop, callbacks, **rest)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call(stop, kwargs)
        requests = [call._request(prompt, run_manager) for prompt in prompts]
        params = [call._sampling_params()] * len(
            prompts
        )  # one each, so that an answer depends on its prompt alone
        with as_langchain_errors():
            answers = call._answering.generate([r for r, _ in requests], params)
        return call._result(answers, [warnings for _, warnings in requests])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call(stop, kwargs)
        requests = [await to_thread(call._request, prompt, run_manager) for prompt in prompts]
        generator, params = call._answering, call._sampling_params()
        with as_langchain_errors():
            try:
                async with TaskGroup() as group:
                    tasks = [
                        group.create_task(generator.agenerate(request, params))
                        for request, _ in requests
                    ]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return call._result([task.result() for task in tasks], [w for _, w in requests])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        call = self._call(stop, kwargs)
        request, warnings = call._request(prompt, run_manager)
        with as_langchain_errors():
            deltas = call._answering.stream(request, call._sampling_params())
        with closing(deltas):
            for delta in deltas:
                chunk = call._chunk(delta, warnings)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        call = self._call(stop, kwargs)
        request, warnings = await to_thread(call._request, prompt, run_manager)
        with as_langchain_errors():
            params = call._sampling_params()
            deltas = await call._answering.astream(request, params)
        async with aclosing(deltas):
            async for delta in deltas:
                chunk = call._chunk(delta, warnings)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _result(self, answers: Sequence[Answer], warnings: Sequence[Sequence[str]]) -> LLMResult:
        generations = [
            [
                Generation(
                    text=answer.text,
                    generation_info=self._metadata(answer.report, answer.finish_reason, own),
                )
            ]
            for answer, own in zip(answers, warnings, strict=True)
        ]
        return LLMResult(generations=generations, llm_output={"model_name": self.model_name})

    def _chunk(self, delta: AnswerDelta, warnings: Sequence[str]) -> GenerationChunk:
        chunk = GenerationChunk(text=delta.text)
        if delta.report is not None:
            chunk.generation_info = self._metadata(delta.report, delta.finish_reason, warnings)
        return chunk

    def _in_runs(self, prompts: list[str], callbacks: object) -> Self:
        """A copy for one call, which may answer prompts of different runs together."""
        first = callbacks[0] if isinstance(callbacks, list) and callbacks else ()
        one_each = first is None or isinstance(first, list | BaseCallbackManager)
        each = callbacks if one_each else [callbacks] * len(prompts)
        call = self.model_copy()
        call._runs = {prompt: [] for prompt in prompts}
        for prompt, own in zip(prompts, cast("list[object]", each), strict=False):
            call._runs[prompt].append(retrieved_in(own))
        return call

    def _request(
        self, prompt: str, run_manager: object
    ) -> tuple[Request | RemoteRequest, tuple[str, ...]]:
        # LangChain hands over the first prompt's run only. Prompts keep their order, and of those
        # with the same text its cache leaves out all or none.
        runs = self._runs.get(prompt)
        retrieved = runs.pop(0) if runs else retrieved_in(run_manager)
        resolved = resolve_prompt(prompt, {}, self._resolver(retrieved))
        if self.base_url is not None:
            message = Message("user", resolved.parts)
            asked = self._ask_server([message], resolved.question, is_chat=False)
            return asked, resolved.warnings
        return self._ask(resolved.parts, resolved.question), resolved.warnings
