"""The demo: one chain over Python's own reference, first plain, then with two objects swapped."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from langchain_refrag.chat_models import ChatRefrag
from langchain_refrag.checkpoints import load_checkpoint
from langchain_refrag.retrievers import RefragRetriever
from refrag_components.engines import SamplingParams
from refrag_components.generator import RefragGenerator, Request
from refrag_components.index import AddReport, RefragIndex
from refrag_components.modeling import RefragModel
from refrag_components.prompt import Message, TextPart, render
from refrag_components.weights import cache_folder

__all__ = ["run_demo"]


@dataclass(frozen=True)
class _Question:
    """What is asked, and the words of the reference that answer it."""

    text: str
    reference: str


_QUESTIONS = (
    _Question(
        "Which exception is raised when an assert statement fails?",
        "if not expression: raise AssertionError",
    ),
    _Question(
        "What can functions created with lambda expressions not contain?",
        "functions created with lambda expressions cannot contain statements or annotations",
    ),
    _Question(
        "Which loop does the break statement terminate?",
        "It terminates the nearest enclosing loop",
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
_BUDGETS = {"REFRAG 25%": 0.25, "REFRAG 0%": 0.0}

_Chain = Runnable[str, BaseMessage]

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
    console.print(f"Loading {model} and its base decoder", highlight=False)
    refrag = load_checkpoint(model).model
    plain = _plain_generator(refrag)
    with _open_index(refrag, console) as index:
        chains = _chains(index, plain, model, _PASSAGES, _MAX_TOKENS)
        with console.status("Warming up"):
            for chain in chains.values():
                chain.invoke("What is an expression?")
        console.print(_legend(refrag), highlight=False)
        for number, question in enumerate(_QUESTIONS, start=1):
            with console.status(f"Question {number} of {len(_QUESTIONS)}"):
                answers = {name: chain.invoke(question.text) for name, chain in chains.items()}
            console.print(_answer_table(f"{number}. {question.text}", question, answers))
        chains = _chains(index, plain, model, _MANY_PASSAGES, max_tokens=1)
        console.print(f"Timing with {_MANY_PASSAGES} passages", highlight=False)
        with console.status(f"{_RUNS} runs each"):
            reports = _repeated(chains, _QUESTIONS[0].text)
        console.print(_timing_table(reports))
    console.print(_NEXT, highlight=False, markup=False)


def _open_index(model: RefragModel, console: Console) -> RefragIndex:
    """The index that an earlier run has left, or a new one."""
    pages = {text: name for name, text in topics.items() if len(text) <= _LONGEST_TOPIC}
    release = platform.python_version()
    folder = cache_folder() / "demo" / f"python-{release}-{model.fingerprint}"
    started = time.perf_counter()
    index = RefragIndex.create(folder, model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"Indexing the reference of Python {release}", total=len(pages))

        def advance(report: AddReport) -> None:
            bar.update(task, completed=report.added + report.unchanged)

        sources = [{"source": name} for name in pages.values()]
        report = index.add_texts(pages, sources, batch_size=4, progress=advance)
    seconds = time.perf_counter() - started
    passages = f"{len(pages)} topics of Python {release}'s reference: {index.info().passages} passages"
    if report.added:
        console.print(f"Indexed {passages} in {seconds:.0f} s; the next run finds them in {folder}")
    else:
        console.print(f"Found {passages}, indexed by an earlier run in {folder}")
    return index


def _chains(
    index: RefragIndex, plain: RefragGenerator, model: str, k: int, max_tokens: int
) -> dict[str, _Chain]:
    """The same chain thrice: as it was, and swapped with each budget."""
    retriever = _IndexRetriever(index=index, k=k)
    chains = {"plain": _make_chain(retriever, _PlainChat(generator=plain, max_tokens=max_tokens))}
    swapped = RefragRetriever(retriever=retriever, store=index.store)
    for name, budget in _BUDGETS.items():
        chat = ChatRefrag(model=model, budget=budget, max_tokens=max_tokens)
        chains[name] = _make_chain(swapped, chat)
    return chains


def _repeated(chains: Mapping[str, _Chain], question: str) -> dict[str, list[dict[str, Any]]]:
    """Reports of several runs; the chains take turns, so that a busy machine slows them alike."""
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in chains}
    for _ in range(_RUNS):
        for name, chain in chains.items():
            reports[name].append(chain.invoke(question).response_metadata["refrag"])
    return reports


# -- what is printed ------------------------------------------------------------------------------


def _legend(model: RefragModel) -> str:
    k = model.config.chunk_size
    return f"""
The same chain three times, {_PASSAGES} passages a question, answers of at most {_MAX_TOKENS} tokens:
  plain       the untouched base decoder reads every token
  REFRAG 25%  {k} tokens take one position, but for the 25% of the chunks most like the question
  REFRAG 0%   {k} tokens take one position, everywhere
"""


def _answer_table(number: int, question: _Question, answers: Mapping[str, BaseMessage]) -> Table:
    table = _table(f"{number}. {question.text}\n   The text says: {question.reference}")
    table.add_column("answer", ratio=1)
    for heading in ("context\ntokens", "all\npositions", "rate", "cache\nhits", "first\ntoken"):
        table.add_column(heading, justify="right")
    reports = {name: answer.response_metadata["refrag"] for name, answer in answers.items()}
    context_tokens = max(report["context_tokens"] for report in reports.values())
    for name, report in reports.items():
        passages = report["cache_hits"] + report["cache_misses"]
        cut = answers[name].response_metadata["finish_reason"] == "length"
        table.add_row(
            name,
            Text(" ".join(answers[name].text.split()) + (" ..." if cut else "")),
            str(context_tokens),  # the same passages, also where the model could not tell them
            str(report["positions"]),
            f"{report['rate']:.1f}",
            f"{report['cache_hits']} of {passages}" if passages else "-",
            f"{report['time_to_first_token']:.2f} s",
        )
    return table


def _timing_table(reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    context_tokens = max(own[0]["context_tokens"] for own in reports.values())
    table = _table(
        f"Time to first token with {_MANY_PASSAGES} passages ({context_tokens} tokens), "
        f"median of {_RUNS} runs"
    )
    for heading in ("all\npositions", "rate", "cache\nhits", "first\ntoken", "times\nfaster"):
        table.add_column(heading, justify="right")
    medians = {
        name: statistics.median(report["time_to_first_token"] for report in own)
        for name, own in reports.items()
    }
    ...
