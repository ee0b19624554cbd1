"""Graphs and agents: state, checkpoints, and vectors that are found again by key."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from langchain_refrag import ChatRefrag, RefragDocument, RefragRetriever
from langchain_refrag.documents import document_stores
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.resolver import Resolver
from refrag_components.stores import SQLiteStore
from tests.integrations.langchain.conftest import ListRetriever

ROOT = Path(__file__).parents[3]
MAX_BYTES = 200_000
THREAD: Any = {"configurable": {"thread_id": "1"}}
TEXT = (
    "the harbour lies north of the old town and was dug by two hundred men in the spring of that "
    "year when the river rose and the bridge at the mill was carried away in the night"
)


class State(TypedDict, total=False):
    messages: Annotated[list[BaseMessage], add_messages]
    documents: list[Document]


def passages(number: int) -> list[Document]:
    """Passages of a hundred words."""
    words = TEXT.split()
    texts = [" ".join(words[(i * j) % len(words)] for j in range(100)) for i in range(number)]
    return [
        Document(page_content=f"Passage {i}: {text}", metadata={"source": f"file-{i}.txt"})
        for i, text in enumerate(texts)
    ]


def build(folder: str, store: SQLiteStore, saver: BaseCheckpointSaver[Any], number: int) -> Any:
    """A graph that retrieves once and then answers any number of questions."""
    retriever = RefragRetriever(
        retriever=ListRetriever(documents=passages(number)), model=folder, store=store
    )
    chat = ChatRefrag(model=folder, max_tokens=4, store=store)

    def retrieve(state: State) -> State:
        return {"documents": retriever.invoke(state["messages"][-1].text)}

    def answer(state: State) -> State:
        return {"messages": [chat.invoke(state["messages"], documents=state["documents"])]}

    graph = StateGraph(State)
    graph.add_node("retrieve", retrieve)
    graph.add_node("answer", answer)
    graph.add_conditional_edges(
        START, lambda state: "answer" if state.get("documents") else "retrieve"
    )
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=saver)


def ask(graph: Any, question: str) -> dict[str, Any]:
    state = graph.invoke({"messages": [HumanMessage(question)]}, THREAD)
    report: dict[str, Any] = state["messages"][-1].response_metadata["refrag"]
    return report


def resume(folder: str, store: str, checkpoints: str) -> None:
    """What the second process does; prints what it finds."""
    with SQLiteStore(store) as chunks, SqliteSaver.from_conn_string(checkpoints) as saver:
        graph = build(folder, chunks, saver, 3)
        report = ask(graph, "And why was it dug?")
        state = graph.get_state(THREAD).values
        kinds = sorted({type(document).__name__ for document in state["documents"]})
        print(json.dumps([report, kinds, len(state["messages"])]))  # noqa: T201


@pytest.mark.parametrize("strict", ["false", "true"])
def test_resumes_in_another_process(roomy_folder: Path, tmp_path: Path, strict: str) -> None:
    arguments = [str(roomy_folder / "tiny"), str(tmp_path / "chunks"), str(tmp_path / "graph")]
    folder, chunks, checkpoints = arguments
    with SQLiteStore(chunks) as store, SqliteSaver.from_conn_string(checkpoints) as saver:
        first = ask(build(folder, store, saver, 3), "When was the harbour dug?")
    assert first["cache_hits"] == 3  # the retriever has made them

    code = f"from {__name__} import resume; resume(*{arguments!r})"
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": strict}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    second, kinds, n_messages = json.loads(result.stdout.splitlines()[-1])
    assert kinds == ["Document"]
    assert "Blocked" not in result.stderr
    assert "unregistered" not in result.stderr
    assert n_messages == 4
    assert (second["cache_hits"], second["cache_misses"]) == (3, 0)
    assert second["context_tokens"] == first["context_tokens"]
    assert second["context_positions"] < second["context_tokens"]


@pytest.mark.parametrize("strict", [True, False])
def test_documents_come_back_as_documents(roomy_folder: Path, strict: bool) -> None:
    """Also where they are passed on with others, in a tool's artifact or in a command."""
    retriever = RefragRetriever(
        retriever=ListRetriever(documents=passages(2)), model=str(roomy_folder / "tiny")
    )
    documents = retriever.invoke("When?")
    assert all(isinstance(document, RefragDocument) for document in documents)
    message = ToolMessage("Found.", tool_call_id="1", artifact=documents)
    saved = {"documents": documents, "found": {"by": [*documents]}, "messages": [message]}
    serializer = JsonPlusSerializer(allowed_msgpack_modules=None if strict else True)
    loaded = serializer.loads_typed(serializer.dumps_typed(saved))
    for back in (loaded["documents"], loaded["found"]["by"]):
        assert [type(document) for document in back] == [Document, Document]
        assert [document.page_content for document in back] == [d.page_content for d in documents]
        assert [document.metadata for document in back] == [d.metadata for d in documents]
    resolver = Resolver(load_checkpoint(str(roomy_folder / "tiny")).model.fingerprint)
    artifact = document_stores(loaded["messages"][0].artifact, resolver)
    assert list(artifact) == [document.page_content for document in documents]


def test_resumes_with_new_objects(roomy_folder: Path, tmp_path: Path) -> None:
    folder, saver = str(roomy_folder / "tiny"), InMemorySaver()
    reports = []
    for question in ("When was the harbour dug?", "And why?", "By whom?"):
        store = SQLiteStore(tmp_path / "chunks")
        reports.append(ask(build(folder, store, saver, 3), question))
    assert [report["cache_misses"] for report in reports] == [0, 0, 0]
    assert reports[2]["positions"] > reports[1]["positions"] > reports[0]["positions"]


class SizeTracer(BaseTracer):
    """Adds up what a trace of a call sends."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def _persist_run(self, run: Run) -> None:
        self._add(run)

    def _add(self, run: Run) -> None:
        sent = [run.name, run.inputs, run.outputs, run.extra, run.serialized]
        self.bytes += len(dumps(sent))
        for child in run.child_runs:
            self._add(child)


def test_twenty_passages_leave_a_small_trace(roomy_folder: Path, tmp_path: Path) -> None:
    folder = str(roomy_folder / "tiny")
    store = SQLiteStore(tmp_path / "chunks")
    retriever = RefragRetriever(
        retriever=ListRetriever(documents=passages(20)), model=folder, store=store
    )
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    chain = (
        {
            "context": retriever | (lambda found: "\n\n".join(d.page_content for d in found)),
            "question": RunnablePassthrough(),
        }
        | prompt
        | ChatRefrag(model=folder, max_tokens=4)
    )
    tracer = SizeTracer()
    handlers: list[BaseCallbackHandler] = [tracer]
    refrag = chain.invoke("When?", {"callbacks": handlers}).response_metadata["refrag"]
    assert refrag["cache_hits"] == 20
    assert 0 < tracer.bytes < MAX_BYTES


def test_twenty_passages_leave_a_small_checkpoint(roomy_folder: Path, tmp_path: Path) -> None:
    folder = str(roomy_folder / "tiny")
    checkpoints = str(tmp_path / "graph")
    store = SQLiteStore(tmp_path / "chunks")
    with SqliteSaver.from_conn_string(checkpoints) as saver:
        refrag = ask(build(folder, store, saver, 20), "When?")
    assert refrag["cache_hits"] == 20
    with closing(sqlite3.connect(checkpoints)) as connection:
        query = "SELECT sum(length({0})), max(length({0})) FROM {1}"
        states = connection.execute(query.format("checkpoint", "checkpoints")).fetchone()
        writes = connection.execute(query.format("value", "writes")).fetchone()
    assert 0 < states[1] < MAX_BYTES / 4
    assert states[0] + writes[0] < MAX_BYTES  # all steps of the call
