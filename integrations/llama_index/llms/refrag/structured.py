"""Answers that are objects of a pydantic class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any, Self

from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode

from refrag_components.generation.settings import AnswerSettings
from refrag_components.generation.tools import calls_tools

__all__ = ["SchemaLLM"]


class SchemaLLM(AnswerSettings, FunctionCallingLLM):
    """An LLM that keeps an answer to a schema, and takes one with a call as ``json_schema``."""

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
        return super(SchemaLLM, llm).structured_predict(
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
        return await super(SchemaLLM, llm).astructured_predict(
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

    def _kept_to(
        self, output_cls: type[Model], llm_kwargs: dict[str, Any] | None
    ) -> tuple[Self, dict[str, Any]]:
        """The LLM and the keywords of its call with which LlamaIndex gets an object of a class."""
        modes = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)
        may_call = self.base_url is None and self.pydantic_program_mode in modes
        if may_call and calls_tools(self._checkpoint().model.tokenizer, by_schema=True):
            return self, dict(llm_kwargs or {})
        llm = self.model_copy(update={"pydantic_program_mode": PydanticProgramMode.LLM})
        return llm, {"json_schema": output_cls.model_json_schema(), **(llm_kwargs or {})}
