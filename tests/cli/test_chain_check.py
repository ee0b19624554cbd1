from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import HARBOUR, LIGHTHOUSE, Run

RAIN = "Rain fell on the mountain for three days, then the river rose by two metres."
PRICES = "Prices rose by twelve percent in 2019, fell in 2020 and have been flat since then."
SHORT = "A mole."

LANGCHAIN = """
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_refrag import ChatRefrag, RefragRetriever

class Mine(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=text) for text in {texts!r}]

def format_docs(documents):
    texts = [document.page_content for document in documents]
    return {formatted}

prompt = ChatPromptTemplate.from_template("Use this: {{context}} Question: {{question}}")
model = ChatRefrag(model={model!r}, max_tokens=2)
retriever = RefragRetriever(retriever=Mine())
chain = {{"context": retriever | format_docs, "question": RunnablePassthrough()}} | prompt | model
asked = prompt | model
"""
FIVE = [HARBOUR, LIGHTHOUSE, RAIN, PRICES, SHORT]


@pytest.fixture(autouse=True)
def modules_forgotten() -> Iterator[None]:
    """The application of one test is not that of the next."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("app", None)


def write(folder: Path, model: Path, formatted: str, texts: list[str] = FIVE) -> Path:
    file = folder / "app.py"
    file.write_text(LANGCHAIN.format(texts=texts, formatted=formatted, model=str(model)))
    return file


def test_a_chain_that_pastes_its_passages(refrag: Run, tiny_folder: Path, tmp_path: Path) -> None:
    app = write(tmp_path, tiny_folder, "'\\n\\n'.join(texts)", FIVE[:4])
    result = refrag("doctor", f"{app}:chain", "When was the harbour dug?")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first == "4 of 4 passages recognised"
    assert "tokens of passages in" in second
    assert "Answer: " in result.stderr


def test_what_a_formatter_changes_is_named(
    refrag: Run, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formatted = "' '.join([texts[0], texts[1][:40], texts[2].replace(' ', ' > '), texts[4]])"
    write(tmp_path, tiny_folder, formatted)
    monkeypatch.chdir(tmp_path)
    result = refrag("doctor", "app:chain", '{"question": "When?"}')
    lines = result.stdout.splitlines()
    assert lines[0] == "1 of 5 passages recognised, 2 changed by what formats them"
    told = {line.split(" ...: ")[0].strip(): line.split(" ...: ")[1] for line in lines[1:5]}
    assert told[LIGHTHOUSE[:60].strip()] == "it begins there and is then cut off or changed"
    assert told[RAIN[:60].strip()].startswith("its words are there, with other characters between")
    assert told[PRICES[:60].strip()] == "its text is not there, so it was rewritten or left out"
    assert told[SHORT] == "it has fewer than 32 characters and is read as tokens"


def test_a_chain_that_retrieves_nothing(refrag: Run, tiny_folder: Path, tmp_path: Path) -> None:
    app = write(tmp_path, tiny_folder, "''")
    result = refrag("doctor", f"{app}:asked", '{"context": "no", "question": "When?"}')
    assert result.stdout.startswith("no passages were retrieved by a retriever of this library")


def test_loggers_are_left_as_they_were(refrag: Run, tiny_folder: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("refrag_components.prompts.conversation")
    before = logger.level, list(logger.handlers)
    refrag("doctor", f"{write(tmp_path, tiny_folder, 'texts[0]')}:chain", "When?")
    assert (logger.level, logger.handlers) == before


def test_engines_of_llama_index_are_asked_in_their_way(
    refrag: Run, roomy_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        f"""
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.llms.refrag import RefragLLM
from llama_index.postprocessor.refrag import RefragNodePostprocessor

index = VectorStoreIndex.from_documents(
    [Document(text=text) for text in {FIVE[:2]!r}], embed_model=MockEmbedding(8)
)
engine = index.as_query_engine(
    llm=RefragLLM(model={str(roomy_folder / "tiny")!r}, max_tokens=2),
    node_postprocessors=[RefragNodePostprocessor()],
)
"""
    )
    result = refrag("doctor", f"{tmp_path / 'app.py'}:engine", "When was the harbour dug?")
    assert result.exit_code == 0, result.output
    assert "2 of 2 passages recognised" in result.stdout


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("app.py:nothing", "there is no app.py:nothing: module 'app' has no attribute"),
        ("nowhere:chain", "there is no nowhere:chain: No module named"),
        ("nowhere", "nowhere is neither an index nor a chain; name a chain as in app.py:chain"),
        ("app.py:number", "int has no invoke, query or chat, so it cannot be asked"),
        ("app.py:other", "no model of this library was asked; is ChatRefrag or RefragLLM"),
    ],
)
def test_mistakes_are_one_line(
    refrag: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    (tmp_path / "app.py").write_text("number = 3\n\ndef other(question):\n    return 'Yes.'\n")
    monkeypatch.chdir(tmp_path)
    result = refrag("doctor", target, "When?")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
