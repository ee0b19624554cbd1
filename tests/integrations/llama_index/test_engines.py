"""Unmodified query and chat engines compress, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import Document, DocumentSummaryIndex, Settings, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index.llms.refrag import RefragLLM, collect_reports
from llama_index.postprocessor.refrag import RefragNodePostprocessor
from llama_index.response_synthesizers.refrag import RefragQueryEngine
from llama_index.retrievers.refrag import RefragRetriever
from refrag_components.stores.memory import MemoryStore
from tests.integrations.llama_index.conftest import HARBOUR, QUESTION, RAIN, ListRetriever

MODES = pytest.mark.parametrize(
    "mode", ["compact", "refine", "tree_summarize", "accumulate", "simple_summarize"]
)
STREAMING_MODES = pytest.mark.parametrize(
    "mode", ["compact", "refine", "tree_summarize", "simple_summarize"]
)
CHATS = pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question"])


def engine(index: VectorStoreIndex, llm: Any, mode: str, **options: Any) -> BaseQueryEngine:
    return index.as_query_engine(
        llm=llm,
        node_postprocessors=[RefragNodePostprocessor()],
        response_mode=ResponseMode(mode),
        similarity_top_k=3,
        **options,
    )


def chat_engine(index: VectorStoreIndex, llm: Any, mode: str) -> BaseChatEngine:
    return index.as_chat_engine(
        llm=llm,
        chat_mode=ChatMode(mode),
        node_postprocessors=[RefragNodePostprocessor()],
        similarity_top_k=3,
    )


class PromptKeeper(MockLLM):
    """Another LLM; it keeps the prompts that it is given."""

    prompts: list[str] = []  # noqa: RUF012  # pydantic copies it

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text="In 1907.")

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **_: Any
    ) -> CompletionResponseGen:
        self.prompts.append(prompt)
        return (CompletionResponse(text="In 1907.", delta="In 1907.") for _ in range(1))


class TestQueryEngines:
    @MODES
    def test_compresses_and_caches(
        self, index: VectorStoreIndex, llm: RefragLLM, mode: str
    ) -> None:
        asked = engine(index, llm, mode)
        with collect_reports() as cold:
            first = asked.query(QUESTION)
        with collect_reports() as warm:
            assert str(asked.query(QUESTION)) == str(first)
        calls = 3 if mode in ("refine", "accumulate") else 1
        assert len(cold) == len(warm) == calls
        for report in (*cold, *warm):
            assert 0 < report["context_positions"] < report["context_tokens"]
            assert report["warnings"] == []
        assert sum(report["cache_misses"] for report in cold) == 3
        assert sum(report["cache_hits"] for report in warm) == 3

    @MODES
    async def test_async_is_sync(self, index: VectorStoreIndex, llm: RefragLLM, mode: str) -> None:
        asked = engine(index, llm, mode)
        with collect_reports() as reports:
            answer = await asked.aquery(QUESTION)
        assert sum(report["cache_misses"] for report in reports) == 3
        assert str(answer) == str(asked.query(QUESTION))

    @STREAMING_MODES
    async def test_streams(self, index: VectorStoreIndex, llm: RefragLLM, mode: str) -> None:
        whole = str(engine(index, llm, mode).query(QUESTION))
        asked = engine(index, llm, mode, streaming=True)
        with collect_reports() as reports:
            response = asked.query(QUESTION)
            assert isinstance(response, StreamingResponse)
            assert "".join(response.response_gen) == whole
        assert reports[-1]["context_positions"] < reports[-1]["context_tokens"]
        aresponse = await asked.aquery(QUESTION)
        assert isinstance(aresponse, AsyncStreamingResponse)
        assert "".join([token async for token in aresponse.async_response_gen()]) == whole

    @MODES
    def test_another_llm_reads_the_same_prompts(self, index: VectorStoreIndex, mode: str) -> None:
        plain, swapped = PromptKeeper(), PromptKeeper()
        before = index.as_query_engine(
            llm=plain, response_mode=ResponseMode(mode), similarity_top_k=3
        ).query(QUESTION)
        after = engine(index, swapped, mode).query(QUESTION)
        assert str(after) == str(before)
        assert swapped.prompts == plain.prompts
        assert "refrag" not in str(swapped.prompts)
        assert [each.node for each in after.source_nodes] == [n.node for n in before.source_nodes]

    @MODES
    def test_without_the_postprocessor_it_still_answers(
        self, index: VectorStoreIndex, llm: RefragLLM, mode: str
    ) -> None:
        with collect_reports() as reports:
            index.as_query_engine(llm=llm, response_mode=ResponseMode(mode)).query(QUESTION)
        assert {report["context_tokens"] for report in reports} == {0}

    @MODES
    def test_with_everything_expanded_it_is_the_plain_engine(
        self, index: VectorStoreIndex, folder: str, mode: str
    ) -> None:
        llm = RefragLLM(model=folder, max_tokens=8, policy="all", store=MemoryStore())
        options: Any = {"response_mode": ResponseMode(mode), "similarity_top_k": 3}
        with collect_reports() as plain:
            before = index.as_query_engine(llm=llm, **options).query(QUESTION)
        with collect_reports() as expanded:
            after = engine(index, llm, mode).query(QUESTION)
        assert all(report["context_tokens"] for report in expanded)
        if mode != "simple_summarize":  # whose prompt is the printed list if nothing compresses
            assert str(after) == str(before)
            assert [r["positions"] for r in expanded] == [r["positions"] for r in plain]

    @pytest.fixture
    def many(self) -> ListRetriever:
        """More than the decoder's window holds as text."""
        return ListRetriever(
            [
                NodeWithScore(
                    node=TextNode(text=f"In year {1000 + i} this happened: {RAIN} {HARBOUR}")
                )
                for i in range(130)
            ]
        )

    @pytest.fixture
    def economical(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> RefragLLM:
        store = MemoryStore()
        llm = RefragLLM(model=folder, max_tokens=4, policy="none", rest="compress", store=store)
        monkeypatch.setattr(Settings, "tokenizer", llm.token_ids)
        return llm

    def test_context_beyond_the_decoders_window_is_one_call(
        self, economical: RefragLLM, many: ListRetriever
    ) -> None:
        with collect_reports() as reports:
            RefragQueryEngine.from_args(many, llm=economical).query(QUESTION)
        (report,) = reports
        assert report["context_tokens"] > 8192 > report["positions"]

    @pytest.mark.parametrize("mode", ["compact", "tree_summarize"])
    def test_engines_that_repack_make_calls_that_fit_as_text(
        self, economical: RefragLLM, many: ListRetriever, mode: str
    ) -> None:
        asked = RetrieverQueryEngine.from_args(
            RefragRetriever(many), llm=economical, response_mode=ResponseMode(mode)
        )
        with collect_reports() as reports:
            asked.query(QUESTION)
        assert len(reports) > 1
        assert max(report["context_tokens"] for report in reports) < 8192

    def test_chats_and_summaries_know_the_window(self, economical: RefragLLM) -> None:
        """They keep as much text as they are told that the decoder reads, and compress none."""
        turn = f"{HARBOUR} {RAIN} " * 15
        chat = SimpleChatEngine.from_defaults(llm=economical)
        for i in range(12):
            chat.chat(f"{i}. {turn}")
        DocumentSummaryIndex.from_documents(
            [Document(text=turn * 9)],
            llm=economical,
            embed_summaries=False,
            embed_model=MockEmbedding(embed_dim=8),
            transformations=[SentenceSplitter(chunk_size=512, chunk_overlap=0)],
        )

    def test_question_reaches_the_policy(
        self, index: VectorStoreIndex, llm: RefragLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator, questions = llm._checkpoint().generator, []
        generate = generator.generate

        def watched(requests: Any, params: Any) -> Any:
            questions.extend(request.question for request in requests)
            return generate(requests, params)

        monkeypatch.setattr(generator, "generate", watched)
        engine(index, llm, "compact").query(QUESTION)
        assert questions == [QUESTION]

    def test_texts_that_another_postprocessor_changed(
        self, nodes: list[NodeWithScore], llm: RefragLLM
    ) -> None:
        for each in nodes:
            each.node.metadata = {"window": f"Before it, something else. {each.text} And so on."}
        asked = RetrieverQueryEngine.from_args(
            ListRetriever(nodes),
            llm=llm,
            node_postprocessors=[
                MetadataReplacementPostProcessor(target_metadata_key="window"),
                RefragNodePostprocessor(),
            ],
        )
        with collect_reports() as reports:
            asked.query(QUESTION)
        assert reports[0]["cache_misses"] == 3


class TestChatEngines:
    @CHATS
    def test_every_turn_compresses(
        self, index: VectorStoreIndex, llm: RefragLLM, mode: str
    ) -> None:
        chat = chat_engine(index, llm, mode)
        for question in (QUESTION, "And who dug it?"):
            with collect_reports() as reports:
                chat.chat(question)
            report = reports[-1]  # a condensed question is an answer without passages
            assert 0 < report["context_positions"] < report["context_tokens"]

    @pytest.mark.parametrize("mode", ["context", "condense_plus_context"])
    async def test_streams_and_runs_async(
        self, index: VectorStoreIndex, llm: RefragLLM, mode: str
    ) -> None:
        whole = str(chat_engine(index, llm, mode).chat(QUESTION))
        assert "".join(chat_engine(index, llm, mode).stream_chat(QUESTION).response_gen) == whole
        assert str(await chat_engine(index, llm, mode).achat(QUESTION)) == whole
        stream = await chat_engine(index, llm, mode).astream_chat(QUESTION)
        assert "".join([token async for token in stream.async_response_gen()]) == whole

    @pytest.mark.parametrize("mode", ["context", "condense_plus_context"])
    def test_another_llm_reads_the_text(self, index: VectorStoreIndex, mode: str) -> None:
        llm = PromptKeeper()
        assert str(chat_engine(index, llm, mode).chat(QUESTION)) == "In 1907."
        assert HARBOUR in llm.prompts[-1]
        assert "refrag" not in llm.prompts[-1]


def test_reports_end_with_the_block(llm: RefragLLM) -> None:
    with collect_reports() as outer, collect_reports() as inner:
        llm.complete("Good day.")
        assert len(outer) == len(inner) == 1
    llm.complete("Good day.")
    MockLLM().complete("Good day.")
    assert len(outer) == len(inner) == 1
