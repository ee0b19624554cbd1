"""RefragLLM: answers, reports, settings, errors."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import (
    ChatResponse,
    CitableBlock,
    CompletionResponse,
    ImageBlock,
    TextBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel, Field

from llama_index.llms.refrag import RefragLLM
from refrag_components.exceptions import (
    AnswerTimeoutError,
    BudgetError,
    ContextWindowError,
    EmptyInputError,
    SamplingError,
    StructuredOutputError,
    UnknownModelError,
    UnknownPolicyError,
)
from refrag_components.modeling import RefragModel
from refrag_components.policies import RandomPolicy
from refrag_components.stores.memory import MemoryStore
from tests.engines.recorded import Recorded
from tests.integrations.llama_index.conftest import HARBOUR, PRICES, QUESTION, RAIN, retrieve


class Found(BaseModel):
    """What was found."""

    year: int = Field(ge=0, le=2100)
    place: str = Field(max_length=8)


FIND = PromptTemplate("When was {what} dug?")
TEMPLATE = "Context:\n{}\n\nQuestion: " + QUESTION


def register(*passages: str) -> str:
    """A prompt with passages that a retriever has seen."""
    retrieve(QUESTION, *passages)
    return TEMPLATE.format("\n\n".join(passages))


def report(response: ChatResponse | CompletionResponse) -> dict[str, Any]:
    assert response.raw is not None
    refrag: dict[str, Any] = response.raw["refrag"]
    return refrag


class TestAnswers:
    def test_report_and_usage(self, llm: RefragLLM, folder: str) -> None:
        response = llm.complete(register(HARBOUR, RAIN))
        refrag = report(response)
        assert 0 < refrag["context_positions"] < refrag["context_tokens"]
        assert refrag["rate"] > 1.5
        assert (refrag["policy"], refrag["budget"]) == ("late-interaction", 0.25)
        assert refrag["warnings"] == []
        assert response.raw is not None
        assert response.raw["model"] == folder
        assert response.raw["finish_reason"] in ("stop", "length")
        assert response.raw["usage"] == {
            "prompt_tokens": refrag["positions"],
            "completion_tokens": refrag["output_tokens"],
            "total_tokens": refrag["positions"] + refrag["output_tokens"],
        }

    def test_only_the_end_of_a_stream_reports(self, llm: RefragLLM) -> None:
        *others, last = llm.stream_complete(register(HARBOUR))
        assert report(last)["context_tokens"] > report(last)["context_positions"]
        assert others
        assert {piece.raw for piece in others} == {None}

    def test_second_call_finds_the_vectors(self, llm: RefragLLM) -> None:
        first, second = (report(llm.complete(register(HARBOUR, RAIN))) for _ in range(2))
        assert (first["cache_hits"], first["cache_misses"]) == (0, 2)
        assert (second["cache_hits"], second["cache_misses"]) == (2, 0)

    def test_with_everything_expanded_it_is_the_plain_model(self, llm: RefragLLM) -> None:
        prompt = TEMPLATE.format(f"{HARBOUR}\n\n{RAIN}")
        plain = llm.complete(prompt)
        register(HARBOUR, RAIN)
        expanded = llm.complete(prompt, policy="all")
        assert report(expanded)["context_tokens"] > 0
        assert report(expanded)["positions"] == report(plain)["positions"]
        assert expanded.text == plain.text
        for budget, rest in ((1.0, "compress"), (1.0, "drop"), (1000, "compress"), (1000, "drop")):
            by_budget = llm.complete(prompt, budget=budget, rest=rest)
            assert report(by_budget)["rate"] == 1.0
            assert by_budget.text == plain.text

    def test_the_rest_may_be_dropped(self, folder: str) -> None:
        prompt = register(HARBOUR, RAIN)
        llm = RefragLLM(model=folder, rest="drop", max_tokens=4)
        refrag = report(llm.complete(prompt))
        assert (refrag["rest"], refrag["compressed"]) == ("drop", 0)
        assert 0 < refrag["expanded"] == refrag["chunks"] - refrag["dropped"]
        refrag = report(llm.complete(prompt, budget=20, rest="compress"))
        assert refrag["rest"] == "compress"
        assert refrag["compressed"] > 0
        assert refrag["context_positions"] <= 20
        with pytest.raises(BudgetError, match="'compress' or 'drop'"):
            RefragLLM(model=folder, rest="delete")

    def test_complete_is_a_users_message(self, llm: RefragLLM) -> None:
        prompt = register(HARBOUR)
        message = ChatMessage(role=MessageRole.USER, content=prompt)
        assert llm.complete(prompt).text == llm.chat([message]).message.content

    def test_formatted_prompts_are_continued(self, llm: RefragLLM) -> None:
        prompt = register(HARBOUR)
        raw = report(llm.complete(prompt, formatted=True))
        assert raw["positions"] < report(llm.complete(prompt))["positions"]
        assert raw["context_positions"] < raw["context_tokens"]

    def test_token_counter_counts_positions(self, llm: RefragLLM) -> None:
        counter = TokenCountingHandler()
        llm.callback_manager = CallbackManager([counter])
        refrag = report(llm.complete(register(HARBOUR, RAIN, PRICES)))
        assert counter.prompt_llm_token_count == refrag["positions"]
        assert counter.completion_llm_token_count == refrag["output_tokens"]

    def test_explain(self, llm: RefragLLM) -> None:
        prompt = register(HARBOUR, RAIN)
        spans = llm.explain(prompt, budget=0.5, rest="compress").spans
        assert prompt in "".join(text for text, _ in spans)
        assert "".join(text for text, mark in spans if mark is not None) == HARBOUR + RAIN
        refrag = report(llm.complete(prompt, budget=0.5, rest="compress"))
        assert [mark for _, mark in spans].count(True) == refrag["expanded"]
        assert sum(mark is not None for _, mark in spans) == refrag["chunks"]

    async def test_abandoned_async_stream(self, llm: RefragLLM) -> None:
        stream = await llm.astream_complete(register(HARBOUR))
        await anext(stream)
        await stream.aclose()
        assert llm.complete(register(HARBOUR)).text


class TestSettings:
    def test_each_may_come_with_a_call(self, llm: RefragLLM) -> None:
        prompt = register(HARBOUR, RAIN)
        compressed = report(llm.complete(prompt, policy="none", rest="compress"))
        assert compressed["expanded"] == 0
        assert report(llm.complete(prompt, budget=0.5))["budget"] == 0.5
        assert report(llm.complete(prompt, max_tokens=2))["output_tokens"] == 2
        drawn = [llm.complete(prompt, temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert llm.policy == "auto"

    def test_stop_strings(self, llm: RefragLLM) -> None:
        text = llm.complete(register(HARBOUR)).text
        stopped = llm.complete(register(HARBOUR), stop=[text[3]])
        assert stopped.text == text[: text.index(text[3])]
        assert stopped.raw is not None
        assert stopped.raw["finish_reason"] == "stop"

    def test_the_question_is_what_the_policy_sees(self, folder: str) -> None:
        prompt = register(HARBOUR, RAIN, PRICES)
        llm = RefragLLM(model=folder, max_tokens=1, store=MemoryStore())
        one, other = (llm._complete_call(prompt, False, question=q) for q in ("Rain?", HARBOUR))
        assert (one.request.question, other.request.question) == ("Rain?", HARBOUR)
        assert one.request.parts == other.request.parts

    def test_policies_and_engines_of_ones_own(self, folder: str, llm: RefragLLM) -> None:
        generator = llm._checkpoint().generator
        engine = Recorded(generator.engine)
        own = RefragLLM(
            model=folder, policy=RandomPolicy(seed=3), budget=0.5, engine=engine, max_tokens=8
        )
        assert own.complete(QUESTION).text == llm.complete(QUESTION).text
        assert engine.batches == [1]
        assert report(own.complete(QUESTION))["policy"] == "random"
        assert report(llm.complete(QUESTION, policy=RandomPolicy()))["policy"] == "random"
        assert own.to_dict()["policy"] is own.policy
        with pytest.raises(UnknownPolicyError):
            llm.complete(QUESTION, policy=RandomPolicy)

    def test_window_is_the_decoders(self, folder: str) -> None:
        for budget in (0.0, 0.25, 1.0):
            assert RefragLLM(model=folder, budget=budget).metadata.context_window == 8192 - 256

    def test_metadata_loads_no_weights(
        self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An agent asks for it on the event loop."""
        own = shutil.copytree(folder, tmp_path / "own")
        monkeypatch.setattr(RefragModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
        assert RefragLLM(model=str(own)).metadata.context_window == 8192 - 256

    def test_tokens_are_counted_by_the_decoders_tokenizer(
        self, llm: RefragLLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = llm.token_ids(HARBOUR)
        assert llm._checkpoint().model.tokenizer.decode(ids) == HARBOUR
        monkeypatch.setattr(Settings, "_tokenizer", None)
        Settings.tokenizer = llm.token_ids
        memory = ChatMemoryBuffer.from_defaults(llm=llm)
        assert memory.tokenizer_fn(HARBOUR) == ids

    def test_settings_of_other_models_are_named(self, folder: str) -> None:
        with pytest.warns(UserWarning, match="RefragLLM ignores api_key, max_retries"):
            RefragLLM(model=folder, max_retries=2, api_key="x")

    def test_names_of_other_providers(self, llm: RefragLLM) -> None:
        assert RefragLLM(model=llm.model, max_completion_tokens=2).max_tokens == 2
        assert report(llm.complete(QUESTION, max_completion_tokens=2))["output_tokens"] <= 2

    def test_warnings_point_at_the_user(self, folder: str) -> None:
        with pytest.warns(UserWarning, match="ignores max_retries") as caught:
            RefragLLM(model=folder, max_retries=2)
        assert caught[0].filename == __file__

    async def test_logprobs(self, llm: RefragLLM) -> None:
        response = llm.complete(QUESTION, logprobs=True, top_logprobs=2)
        assert response.logprobs is not None
        assert len(response.logprobs) == report(response)["output_tokens"]
        for own, *others in response.logprobs:
            assert own.logprob <= 0
            assert len(others) == 1  # nothing is drawn: the token itself is the likeliest
            assert others[0].logprob <= own.logprob
        tokens = [told[0].token for told in response.logprobs]
        message = [ChatMessage(role=MessageRole.USER, content=QUESTION)]
        own = llm.model_copy(update={"logprobs": True})
        stream = await llm.astream_chat(message, logprobs=True)
        for other in (
            llm.chat(message, logprobs=True),
            own.complete(QUESTION),
            await llm.acomplete(QUESTION, logprobs=True),
            list(llm.stream_chat(message, logprobs=True))[-1],
            [each async for each in stream][-1],
        ):
            assert [told[0].token for told in other.logprobs or ()] == tokens
        assert llm.complete(QUESTION).logprobs is None
        with pytest.raises(SamplingError, match="needs logprobs=True"):
            RefragLLM(model=llm.model, top_logprobs=2)

    async def test_timeout(self, llm: RefragLLM) -> None:
        late = llm.model_copy(update={"timeout": 1e-9})
        with pytest.raises(AnswerTimeoutError, match="raise timeout"):
            late.complete(QUESTION)
        with pytest.raises(TimeoutError):
            await late.acomplete(QUESTION)
        assert late.complete(QUESTION, timeout=600).text == llm.complete(QUESTION).text
        with pytest.raises(SamplingError, match="timeout must be"):
            RefragLLM(model=llm.model, timeout=0)

    def test_all_that_a_call_may_set_is_documented(self) -> None:
        assert RefragLLM.__doc__ is not None
        others = {"max_completion_tokens"}  # another name of one of them
        for name in {*RefragLLM._by_call, *RefragLLM._call_only} - others:
            assert f"``{name}``" in RefragLLM.__doc__

    def test_none_stands_for_the_default(self, llm: RefragLLM) -> None:
        with warnings.catch_warnings(action="error"):
            made = RefragLLM(
                **{name: None for name in RefragLLM._by_call}, model=llm.model, device=None
            )
            asked = llm.complete(QUESTION, **{name: None for name in RefragLLM._by_call})
        assert made.to_dict() == RefragLLM(model=llm.model).to_dict()
        assert asked.text == llm.complete(QUESTION).text

    def test_the_bundled_checkpoint_is_the_default(self) -> None:
        assert RefragLLM().model == "refrag-smollm2-135m"

    def test_images_are_named_or_skipped(self, llm: RefragLLM) -> None:
        picture = ImageBlock(url="http://localhost/harbour.png")
        asked, passage = TextBlock(text=QUESTION), TextBlock(text=HARBOUR)
        cited = CitableBlock(title="Map", source="1", content=[passage, picture])
        message = ChatMessage(role=MessageRole.USER, blocks=[asked, picture, cited])
        with pytest.raises(ValueError, match=r"'image' block.*skip_media=True"):
            llm.chat([message])
        response = llm.model_copy(update={"skip_media": True}).chat([message])
        legible = CitableBlock(title="Map", source="1", content=[passage])
        text = ChatMessage(role=MessageRole.USER, blocks=[asked, legible])
        assert response.message.content == llm.chat([text]).message.content
        assert report(response)["warnings"] == ["2 'image' blocks were left out: only text is read"]
        assert len(message.blocks) == 3


class TestDocuments:
    @pytest.mark.parametrize(
        "documents",
        [
            [HARBOUR],
            [TextNode(text=HARBOUR)],
            (NodeWithScore(node=TextNode(text=HARBOUR, metadata={"page": 1}), score=0.5),),
            [{"text": HARBOUR}],
        ],
    )
    def test_in_any_form(self, llm: RefragLLM, documents: object) -> None:
        before = report(llm.complete(QUESTION, documents=documents))
        within = report(llm.complete(TEMPLATE.format(HARBOUR), documents=documents))
        for refrag in (before, within):
            assert 0 < refrag["context_positions"] < refrag["context_tokens"]
        assert before["context_tokens"] == within["context_tokens"]

    def test_of_a_prompt_that_is_continued(self, llm: RefragLLM) -> None:
        refrag = report(llm.complete(QUESTION, formatted=True, documents=[HARBOUR]))
        assert 0 < refrag["context_positions"] < refrag["context_tokens"]

    @pytest.mark.parametrize("documents", [HARBOUR, 7, [7]])
    def test_something_else(self, llm: RefragLLM, documents: object) -> None:
        with pytest.raises(TypeError, match="document"):
            llm.complete(QUESTION, documents=documents)


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "error"),
        [
            ({"model": "no-such-model"}, UnknownModelError),
            ({"policy": "best"}, UnknownPolicyError),
            ({"budget": -1}, BudgetError),
            ({"budget": 7.5}, BudgetError),
            ({"budget": float("nan")}, BudgetError),
            ({"budget": True}, BudgetError),
            ({"budget": "0.5"}, BudgetError),
            ({"temperature": -1.0}, SamplingError),
        ],
    )
    def test_bad_settings(
        self, folder: str, settings: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            RefragLLM(**{"model": folder, **settings})

    async def test_bad_calls(self, llm: RefragLLM) -> None:
        """Streams too refuse at once and not with their first piece."""
        message = [ChatMessage(role=MessageRole.USER, content=QUESTION)]
        with pytest.raises(
            TypeError, match=r"does not take colour with a call; it takes documents"
        ):
            llm.complete(QUESTION, colour="red")
        with pytest.raises(BudgetError):
            llm.stream_chat(message, budget=-1)
        with pytest.raises(UnknownPolicyError):
            await llm.astream_chat(message, policy="best")
        with pytest.raises(SamplingError):
            await llm.achat(message, top_p=7.0)

    def test_nothing_to_answer(self, llm: RefragLLM) -> None:
        with pytest.raises(EmptyInputError, match="no messages"):
            llm.chat([])
        for formatted in (False, True):
            with pytest.raises(EmptyInputError, match="empty"):
                llm.complete("  ", formatted=formatted)

    def test_no_room(self, llm: RefragLLM) -> None:
        with pytest.raises(ContextWindowError, match="retrieve fewer passages"):
            llm.complete("word " * 9000)


class TestStructuredOutput:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    async def test_every_answer_fits(self, llm: RefragLLM, temperature: float) -> None:
        settings = {"max_tokens": 100, "temperature": temperature, "seed": 1}
        found = llm.structured_predict(Found, FIND, settings, what="the harbour")
        assert isinstance(found, Found)
        again = await llm.astructured_predict(Found, FIND, settings, what="the harbour")
        assert again == found

    def test_as_a_structured_llm(self, llm: RefragLLM) -> None:
        llm = llm.model_copy(update={"max_tokens": 100})
        response = llm.as_structured_llm(Found).complete(register(HARBOUR))
        assert isinstance(response.raw, Found)
        assert Found.model_validate_json(response.text) == response.raw

    @pytest.mark.parametrize("formatted", [True, False])
    def test_with_a_single_call(self, llm: RefragLLM, formatted: bool) -> None:
        schema = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}
        settings: dict[str, Any] = {"json_schema": schema, "max_tokens": 40}
        answer = llm.complete("Which two?", formatted, **settings).text
        assert len(json.loads(answer)) == 2
        assert list(llm.stream_complete("Which two?", formatted, **settings))[-1].text == answer

    def test_half_an_answer_is_an_error(self, llm: RefragLLM) -> None:
        with pytest.raises(StructuredOutputError, match="raise max_tokens"):
            llm.structured_predict(Found, FIND, what="the harbour")
        with pytest.raises(StructuredOutputError, match="raise max_tokens"):
            list(llm.stream_complete("x", json_schema=Found.model_json_schema()))

    def test_schemas_that_cannot_be_enforced(self, llm: RefragLLM) -> None:
        with pytest.raises(StructuredOutputError, match="foo"):
            llm.complete("x", json_schema={"type": "foo"})
