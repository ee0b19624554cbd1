"""A chat model that reads retrieved passages as chunk embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_refrag.messages import resolve_messages
from langchain_refrag.settings import RefragSettings
from refrag_components.generator import Request
from refrag_components.prompt import render
from refrag_components.report import Report

__all__ = ["ChatRefrag"]


class ChatRefrag(RefragSettings, BaseChatModel):
    """Chat model that takes the place of any other in a retrieval chain.

    Passages of the prompt enter the decoder as chunk embeddings, one position for every k tokens;
    a policy expands those that matter. Passages are recognised where a ``RefragRetriever``
    returned them, in envelopes, in text blocks with a key, in tool artifacts, and when they are
    given as ``documents`` with the call; all other text is read as ordinary tokens.

    What happened stands in ``response_metadata["refrag"]`` as ``refrag_components.report.Report``;
    ``usage_metadata`` counts decoder positions as input tokens.

    Example:
        ```python
        from langchain_refrag import ChatRefrag, RefragRetriever

        retriever = RefragRetriever(retriever=vector_store.as_retriever())
        model = ChatRefrag(model="refrag-smollm2-135m", budget=0.25)
        chain = create_retrieval_chain(retriever, create_stuff_documents_chain(model, prompt))
        ```

    Attributes:
        streaming: Stream inside ``invoke`` too, for callbacks that want each token.
    """

    streaming: bool = False

    _call_only: ClassVar[frozenset[str]] = frozenset({"documents", "stream"})

    @property
    def _llm_type(self) -> str:
        return "refrag-chat"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "refrag"
        return params

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # The cache key must name the checkpoint and the stop strings that this call really uses.
        call = self._for_call(stop, kwargs)
        return super(ChatRefrag, call)._get_invocation_params(stop=call.stop, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._for_call(stop, kwargs)
        request, warnings = call._request(messages, kwargs.get("documents"))
        answer = call._checkpoint().answer(request, call._sampling())
        message = AIMessage(
            content=answer.text,
            response_metadata=call._metadata(answer.report, answer.finish_reason, warnings),
            usage_metadata=_usage(answer.report),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._for_call(stop, kwargs)
        request, warnings = call._request(messages, kwargs.get("documents"))
        for delta in call._checkpoint().generator.stream(request, call._sampling()):
            message = AIMessageChunk(content=delta.text)
            if delta.report is not None:  # chunks are added up, so totals stand on one alone
                message.response_metadata = call._metadata(
                    delta.report, delta.finish_reason, warnings
                )
                message.usage_metadata = _usage(delta.report)
                message.chunk_position = "last"
            yield ChatGenerationChunk(message=message)

    def _request(
        self, messages: Sequence[BaseMessage], documents: object
    ) -> tuple[Request, Sequence[str]]:
        conversation = resolve_messages(messages, documents, self._resolver())
        parts = render(conversation.messages, self._checkpoint().model.tokenizer)
        request = Request(parts, conversation.question, self.policy, self.budget)
        return request, conversation.warnings


def _usage(report: Report) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=report.positions,
        output_tokens=report.output_tokens,
        total_tokens=report.positions + report.output_tokens,
    )
