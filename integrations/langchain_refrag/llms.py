"""A text model that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from itertools import islice
from typing import Any, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr

from langchain_refrag.errors import as_langchain_errors
from langchain_refrag.runs import retrieved_in
from langchain_refrag.settings import RefragSettings, told
from refrag_components.generation.remote_request import RemoteRequest
from refrag_components.generation.requests import Answer, AnswerDelta, Request, agenerate_all
from refrag_components.prompts.conversation import resolve_prompt
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
        await self._look(kwargs)  # in a thread, what is asked for in the event loop below
        call, rest = self._split_call(stop, kwargs)
        call = call._in_runs(prompts, callbacks)
        return await super(RefragLLM, call).agenerate(prompts, call.stop, callbacks, **rest)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Streams, see ``BaseLLM.astream``."""
        await self._look(kwargs)
        texts = cast("AsyncGenerator[str]", super().astream(input, config, stop=stop, **kwargs))
        async with aclosing(texts):
            async for text in texts:
                yield text

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._call(stop, kwargs)
        requests = [call._request(prompt, run_manager) for prompt in prompts]
        # One each, so that an answer depends on its prompt alone.
        each = call._each_params(call._sampling_params())
        with as_langchain_errors():
            answers = call._answering.generate(
                [request for request, _ in requests for _ in each], each * len(requests)
            )
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
        each = call._each_params(call._sampling_params())
        with as_langchain_errors():
            answers = await agenerate_all(
                await to_thread(lambda: call._answering),
                [request for request, _ in requests for _ in each],
                each * len(requests),
            )
        return call._result(answers, [warnings for _, warnings in requests])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        call = self._call(stop, kwargs)
        call._refuse_several()
        request, warnings = call._request(prompt, run_manager)
        with (
            as_langchain_errors(),  # a server's come with the first delta
            closing(call._answering.stream(request, call._sampling_params())) as deltas,
        ):
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
        call._refuse_several()
        request, warnings = await to_thread(call._request, prompt, run_manager)
        answering = await to_thread(lambda: call._answering)
        with as_langchain_errors():
            deltas = await answering.astream(request, call._sampling_params())
            async with aclosing(deltas):
                async for delta in deltas:
                    chunk = call._chunk(delta, warnings)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _result(self, answers: Sequence[Answer], warnings: Sequence[Sequence[str]]) -> LLMResult:
        each = iter(answers)
        generations = [
            [self._generation(answer, own) for answer in islice(each, self.n)] for own in warnings
        ]
        return LLMResult(generations=generations, llm_output={"model_name": self.model_name})

    def _generation(self, answer: Answer, warnings: Sequence[str]) -> Generation:
        metadata = self._metadata(answer.report, answer.finish_reason, warnings)
        return Generation(text=answer.text, generation_info={**metadata, **told(answer.logprobs)})

    def _chunk(self, delta: AnswerDelta, warnings: Sequence[str]) -> GenerationChunk:
        about = told(delta.logprobs)
        if delta.report is not None:
            about |= self._metadata(delta.report, delta.finish_reason, warnings)
        return GenerationChunk(text=delta.text, generation_info=about or None)

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
        return self._ask_to_continue(resolved.parts, resolved.question), resolved.warnings
