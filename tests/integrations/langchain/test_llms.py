"""RefragLLM: text in, text out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate

from langchain_refrag import RefragLLM, RefragRetriever
from refrag_components.exceptions import BudgetError, EmptyInputError, UnknownPolicyError
from refrag_components.generation.shared_checkpoints import load_checkpoint
from tests.integrations.langchain.conftest import HARBOUR, RAIN, ListRetriever, retrieve


@pytest.fixture
def llm(tiny_folder: Path) -> RefragLLM:
    return RefragLLM(model=str(tiny_folder), max_tokens=8)


def prompt(passage: str) -> str:
    retrieve("When?", passage)
    return f"Context: {passage}\nQuestion: When?\nAnswer:"


def report(result: LLMResult, i: int = 0) -> dict[str, Any]:
    info = result.generations[i][0].generation_info
    assert info is not None
    refrag: dict[str, Any] = info["refrag"]
    return refrag


def test_compresses_and_reports(llm: RefragLLM) -> None:
    result = llm.generate([prompt(HARBOUR), "Once upon a time"])
    assert 0 < report(result)["context_positions"] < report(result)["context_tokens"]
    assert report(result, 1)["context_tokens"] == 0
    assert result.llm_output == {"model_name": llm.model_name}


def test_batch_is_one_call_of_the_generator(
    llm: RefragLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [prompt(HARBOUR), prompt(RAIN), "Once upon a time"]
    expected = [llm.invoke(text) for text in prompts]
    generator = load_checkpoint(llm.model_name).generator
    generate, sizes = generator.generate, []

    def counting(requests: Any, params: Any) -> Any:
        sizes.append(len(requests))
        return generate(requests, params)

    monkeypatch.setattr(generator, "generate", counting)
    assert llm.batch(prompts) == expected
    assert sizes == [3]


async def test_async_is_sync(llm: RefragLLM) -> None:
    expected = llm.invoke(prompt(HARBOUR))
    assert await llm.ainvoke(prompt(HARBOUR)) == expected
    assert "".join([piece async for piece in llm.astream(prompt(HARBOUR))]) == expected
    assert await llm.abatch([prompt(HARBOUR)] * 2) == [expected] * 2


def test_stream_is_invoke_in_pieces(llm: RefragLLM) -> None:
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.tokens: list[str] = []
            self.results: list[LLMResult] = []

        def on_llm_new_token(self, token: str, **_: Any) -> None:
            self.tokens.append(token)

        def on_llm_end(self, response: LLMResult, **_: Any) -> None:
            self.results.append(response)

    handler = Handler()
    pieces = list(llm.stream(prompt(HARBOUR), {"callbacks": [handler]}))
    assert len(pieces) > 2
    assert "".join(pieces) == llm.invoke(prompt(HARBOUR))
    assert handler.tokens == pieces
    assert report(handler.results[0])["context_positions"] > 0


def test_stop_strings(llm: RefragLLM) -> None:
    text = llm.invoke(prompt(HARBOUR))
    stop = text[3]
    expected = text[: text.index(stop)]
    assert llm.invoke(prompt(HARBOUR), stop=[stop]) == expected
    assert "".join(llm.stream(prompt(HARBOUR), stop=[stop])) == expected
    assert llm.model_copy(update={"stop": [stop]}).invoke(prompt(HARBOUR)) == expected


def test_settings_of_a_call(llm: RefragLLM, other_folder: Path) -> None:
    assert report(llm.generate([prompt(HARBOUR)], budget=1.0))["rate"] == 1.0
    compressed = report(llm.generate([prompt(HARBOUR)], policy="none", rest="compress"))
    assert compressed["expanded"] == 0
    result = llm.generate(["Once"], model=str(other_folder), max_tokens=1)
    assert result.llm_output == {"model_name": str(other_folder)}
    assert report(result)["output_tokens"] == 1


def test_a_chain(llm: RefragLLM, list_retriever: ListRetriever) -> None:
    template = PromptTemplate.from_template("Context: {context}\nQuestion: {question}\nAnswer:")
    retriever = RefragRetriever(retriever=list_retriever)
    chain = (
        {
            "context": retriever | (lambda found: "\n".join(d.page_content for d in found)),
            "question": lambda question: question,
        }
        | template
        | llm
    )
    assert chain.invoke("When?") == "".join(chain.stream("When?"))


def test_errors(llm: RefragLLM, tiny_folder: Path) -> None:
    with pytest.raises(BudgetError):
        RefragLLM(model=str(tiny_folder), budget=2.5)
    with pytest.raises(UnknownPolicyError):
        llm.invoke("Once", policy="best")
    with pytest.raises(TypeError, match="documents"):
        llm.invoke("Once", documents=[HARBOUR])
    with pytest.raises(EmptyInputError):
        llm.invoke("")
