"""The demo: one chain over Python's own reference, plain and with two objects swapped."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough
from pydantic import InstanceOf, SkipValidation
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from langchain_refrag.chat_models import ChatRefrag
from langchain_refrag.retrievers import RefragRetriever
from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.index import AddReport, RefragIndex
from refrag_components.modeling import RefragModel
from refrag_components.prompts.parts import Message, TextPart
from refrag_components.prompts.rendering import render
from refrag_components.weights.wheels import cache_folder

__all__ = ["run_demo"]


@dataclass(frozen=True)
class _Question:
    """A question, and the words of the reference that answer it."""

    text: str
    reference: str


# The trained decoder answers these right with all of the text, so the demo shows what compression
# costs. docs/results.md says how often it is wrong even then.
_QUESTIONS = (
    _Question(
        "What does an assert statement raise if its expression is false?",
        "if not expression: raise AssertionError",
    ),
    _Question(
        "What can functions created with lambda expressions not contain?",
        "functions created with lambda expressions cannot contain statements or annotations",
    ),
    _Question(
        "What does the continue statement continue with?",
        "It continues with the next cycle of the nearest enclosing loop.",
    ),
    _Question(
        "What does an imaginary literal yield?",
        "An imaginary literal yields a complex number with a real part of 0.0.",
    ),
    _Question(
        "What is a right shift by n bits defined as?",
        'A right shift by *n* bits is defined as floor division by "pow(2,n)".',
    ),
)
_LONGEST_TOPIC = 5000  # characters; the longer ones mostly repeat the shorter, and cost minutes
_PASSAGES, _MANY_PASSAGES = 4, 20
_MAX_TOKENS = 40
_RUNS = 3
_PLAIN = "plain"
_ALL_EXPANDED = "REFRAG 100%"
_READS: Mapping[str, Mapping[str, Any]] = {
    _ALL_EXPANDED: {"budget": 1.0},
    "REFRAG 25%": {"budget": 0.25},
    "REFRAG 10%": {"budget": 0.1},
    "REFRAG 0%": {"budget": 0.0, "rest": "compress"},
}

_Chain = Runnable[str, BaseMessage]
_Reports = Mapping[str, Mapping[str, Any]]

# -- the user's application: nothing here knows of this library -----------------------------------

_PROMPT = ChatPromptTemplate.from_template(
    "Answer the question based only on the following context:\n{context}\n\nQuestion: {question}"
)


def _format_docs(documents: Sequence[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def _make_chain(retriever: BaseRetriever, model: BaseChatModel) -> _Chain:
    inputs = {"context": retriever | _format_docs, "question": RunnablePassthrough()}
    return inputs | _PROMPT | model


# -- the plain side: a retriever and a chat model that exchange text ------------------------------


class _IndexRetriever(BaseRetriever):
    """Searches an index and returns the texts."""

    index: InstanceOf[RefragIndex]
    k: int

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [
            Document(page_content=hit.text, metadata={"source": hit.source})
            for hit in self.index.search(query, self.k)
        ]


class _PlainChat(BaseChatModel):
    """The base decoder: reads all of the prompt as tokens, in the same engine as ``ChatRefrag``."""

    generator: SkipValidation[RefragGenerator]
    max_tokens: int

    @property
    def _llm_type(self) -> str:
        return "plain-chat"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turns = [Message("user", (TextPart(message.text),)) for message in messages]
        parts = render(turns, self.generator.model.tokenizer)
        request = Request(parts, question=messages[-1].text)
        answer = self.generator.generate([request], SamplingParams(max_tokens=self.max_tokens))[0]
        metadata = {"finish_reason": answer.finish_reason, "refrag": answer.report.to_dict()}
        message = AIMessage(answer.text, response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])


def _plain_generator(model: RefragModel) -> RefragGenerator:
    """The decoder as it was before it was trained to read chunk embeddings."""
    base = RefragModel.from_base(model.config).to(model.device).eval()
    base.decoder.to(model.dtype)
    return RefragGenerator(base)


# -- the demo -------------------------------------------------------------------------------------


def run_demo(model: str, console: Console) -> None:
    """Asks Python's own reference a few questions, plain and compressed, and prints both.

    Args:
        model: Checkpoint: a bundled name, a folder or a hub id.
        console: Where to print.

    Raises:
        DownloadError: If base weights cannot be fetched.
        UnknownModelError: If there is no such checkpoint.
    """
    console.print(f"Loading {model} and its base decoder")
    refrag = load_checkpoint(model).model
    plain = _plain_generator(refrag)
    with _open_index(refrag, console) as index:
        chains = _chains(index, plain, model, k=_PASSAGES, max_tokens=_MAX_TOKENS)
        for chain in chains.values():  # the first pass of a process is slower than all others
            chain.invoke("What is an expression?")
        console.print(_LEGEND.format(k=refrag.config.chunk_size))
        for number, question in enumerate(_QUESTIONS, start=1):
            with console.status(f"Asking question {number} of {len(_QUESTIONS)}"):
                answers = {name: chain.invoke(question.text) for name, chain in chains.items()}
            console.print(f"{number}. {question.text}", style="bold")
            console.print(f"   The text says: {question.reference}")
            console.print(_answer_table(answers), "")
        chains = _chains(index, plain, model, k=_MANY_PASSAGES, max_tokens=1)
        del chains[_ALL_EXPANDED]  # it takes as many positions as the plain chain
        console.print(f"With {_MANY_PASSAGES} passages, median of {_RUNS} runs", style="bold")
        with console.status("Timing"):
            medians = _median_reports(chains, _QUESTIONS[0].text)
        console.print(_timing_table(medians), "")
    console.print(_NEXT)


def _open_index(model: RefragModel, console: Console) -> RefragIndex:
    """The index of an earlier run, or a new one."""
    pages = {text: name for name, text in topics.items() if len(text) <= _LONGEST_TOPIC}
    release = platform.python_version()
    folder = cache_folder() / "demo" / f"python-{release}-{model.fingerprint}"
    index = RefragIndex.create(folder, model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console.print(f"Indexing {len(pages)} topics of the reference of Python {release}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("Topics", total=len(pages))

        def advance(report: AddReport) -> None:
            bar.update(task, completed=report.added + report.unchanged)

        sources = [{"source": name} for name in pages.values()]
        started = time.perf_counter()
        report = index.add_texts(pages, sources, batch_size=4, progress=advance)
    if report.added:
        seconds = time.perf_counter() - started
        done = f"{report.passages} passages in {seconds:.0f} s, stored for the next run"
    else:
        done = f"{index.info().passages} passages from an earlier run are used"
    console.print(f"{done}: {folder}", soft_wrap=True)
    return index


def _chains(
    index: RefragIndex, plain: RefragGenerator, model: str, *, k: int, max_tokens: int
) -> dict[str, _Chain]:
    """The chain as it was, and with the swaps at each budget."""
    retriever = _IndexRetriever(index=index, k=k)
    swapped = RefragRetriever(retriever=retriever, store=index.store)
    chains = {_PLAIN: _make_chain(retriever, _PlainChat(generator=plain, max_tokens=max_tokens))}
    for name, settings in _READS.items():
        chat = ChatRefrag(model=model, max_tokens=max_tokens, **settings)
        chains[name] = _make_chain(swapped, chat)
    return chains


def _median_reports(chains: Mapping[str, _Chain], question: str) -> _Reports:
    """A report of each chain, with the median time to first token of several runs."""
    rounds = [  # the chains take turns, so that a machine that is busy for a while slows them all
        {name: _report(chain.invoke(question)) for name, chain in chains.items()}
        for _ in range(_RUNS)
    ]
    seconds = {
        name: statistics.median(reports[name]["time_to_first_token"] for reports in rounds)
        for name in chains
    }
    return {name: {**rounds[-1][name], "time_to_first_token": seconds[name]} for name in chains}


def _report(answer: BaseMessage) -> dict[str, Any]:
    report: dict[str, Any] = answer.response_metadata["refrag"]
    return report


# -- what is printed ------------------------------------------------------------------------------

_LEGEND = f"""
One chain, {_PASSAGES} passages per question, at most {_MAX_TOKENS} tokens per answer:
  {_PLAIN}        the base decoder, untouched, reads every token
  {_ALL_EXPANDED}  the trained decoder reads every token
  REFRAG 25%   it reads 25% of the chunks, those where the policy expects the answer (the default)
  REFRAG 10%   it reads 10% of them
  REFRAG 0%    none; every chunk of {{k}} tokens takes one position, as a chunk embedding
The questions are ones that it answers right when it reads every token, so that you see what
reading less costs; docs/results.md says how often it is wrong even then.
"""
_NEXT = """What to try next:
  refrag index FOLDER --out my-index            index your own text, Markdown, HTML or PDF files
  refrag ask my-index "A question?" --explain   answer from them, and see which chunks were expanded
  cookbooks/01_swap_into_langchain.ipynb        the two swaps, step by step
"""


def _answer_table(answers: Mapping[str, BaseMessage]) -> Table:
    texts = {name: " ".join(answer.text.split()) for name, answer in answers.items()}
    cut = {name: answers[name].response_metadata["finish_reason"] == "length" for name in answers}
    return _table(
        "answer",
        {name: f"{text} ..." if cut[name] else text for name, text in texts.items()},
        {name: _report(answer) for name, answer in answers.items()},
    )


def _timing_table(reports: _Reports) -> Table:
    seconds = {name: report["time_to_first_token"] for name, report in reports.items()}
    plain = seconds[_PLAIN]
    speeds = {name: f"{plain / wait:.1f} times as fast" for name, wait in seconds.items()}
    return _table("speed", {**speeds, _PLAIN: ""}, reports)


def _table(heading: str, texts: Mapping[str, str], reports: _Reports) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
    table.add_column("")
    table.add_column(heading, ratio=1)
    for numbers in ("context\ntokens", "decoder\npositions", "rate", "cache\nhits", "first\ntoken"):
        table.add_column(numbers, justify="right")
    # The passages are the same for all, even if a model could not tell them from other text.
    context_tokens = max(report["context_tokens"] for report in reports.values())
    for name, report in reports.items():
        passages = report["cache_hits"] + report["cache_misses"]
        table.add_row(
            name,
            Text(texts[name]),
            str(context_tokens),
            str(report["positions"]),
            f"{report['rate']:.1f}",
            f"{report['cache_hits']} of {passages}" if passages else "",
            f"{report['time_to_first_token']:.2f} s",
        )
    return table
