"""What ``refrag ask`` and ``refrag chat`` share: an index and its model, ready to answer."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refrag_components.cli.common import load_model_of, say, shown
from refrag_components.exceptions import ContextWindowError, EmptyInputError, IndexFolderError
from refrag_components.policies.budget import BUDGETS, RESTS, parse_budget, parse_rest
from refrag_components.policies.names import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from refrag_components.generation.generator import RefragGenerator
    from refrag_components.generation.report import Report
    from refrag_components.generation.requests import Request
    from refrag_components.index import Hit, RefragIndex
    from refrag_components.stores import ChunkStore

__all__ = [
    "Asking",
    "BudgetOption",
    "IndexArgument",
    "MaxTokensOption",
    "PassagesOption",
    "PolicyOption",
    "Prompt",
    "RestOption",
    "Turn",
    "check_order",
    "nearby",
    "open_to_ask",
    "sources_of",
    "summarise",
]

_FLUSH_SECONDS = 5.0  # for chunk vectors that only save time the next time

IndexArgument = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Folder that `refrag index` wrote.")
]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME",
        help=f"Chooses the chunks to expand: {', '.join(POLICIES)} (a checkpoint may lack the "
        f"learned ones). {DEFAULT_POLICY} is learned-query if the checkpoint has it, else "
        "late-interaction.",
        autocompletion=lambda: [DEFAULT_POLICY, *POLICIES],
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="NUMBER",
        help=f"How much may expand: {', or '.join(kind.meaning for kind in BUDGETS)}. "
        "Positions are filled with text and, with --rest compress, then with ever coarser "
        "chunk embeddings.",
    ),
]
RestOption = Annotated[
    str,
    typer.Option(
        "--rest",
        metavar="NAME",
        help=f"What becomes of chunks that do not expand: {' or '.join(RESTS)}.",
        autocompletion=lambda: list(RESTS),
    ),
]
PassagesOption = Annotated[
    int, typer.Option("--passages", metavar="N", min=1, help="Passages to retrieve.")
]
MaxTokensOption = Annotated[
    int,
    typer.Option("--max-tokens", metavar="N", min=1, help="Maximum length of an answer in tokens."),
]


@dataclass(frozen=True)
class Turn:
    """A question that was answered before."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """A question with what was found for it.

    Attributes:
        hits: The passages, best first.
        request: The prompt.
        turns: How many earlier turns are in it.
        search_seconds: How long searching took.
    """

    hits: Sequence[Hit]
    request: Request
    turns: int
    search_seconds: float


class Asking:
    """An index and a generator over its store.

    Args:
        index: The index.
        generator: Answers.
        passages: Passages to retrieve per question.
        max_tokens: Maximum length of an answer.
        model_name: The checkpoint's name.
    """

    def __init__(
        self,
        index: RefragIndex,
        generator: RefragGenerator,
        passages: int,
        max_tokens: int,
        model_name: str,
    ) -> None:
        from refrag_components.stores import MemoryStore

        self._index = index
        self.model_name = model_name
        self.generator = generator
        self._passages = passages
        self.max_tokens = max_tokens
        self._history: ChunkStore = MemoryStore()  # what was said is none of the index's documents

    def prompt(self, question: str, turns: Sequence[Turn] = ()) -> Prompt:
        """Searches, and writes the prompt with as many of the latest turns as fit.

        Raises:
            EmptyInputError: If the question is blank or the index holds no passages.
            ContextWindowError: If it does not fit without any turn.
        """
        started = time.perf_counter()
        hits = self._search(question, turns)
        seconds = time.perf_counter() - started
        while True:
            request = self._request(question, hits, turns)
            try:
                if turns:
                    self.generator.prepare(request, max_tokens=self.max_tokens)
                return Prompt(hits, request, len(turns), seconds)
            except ContextWindowError:
                if not turns:
                    raise
                turns = turns[1:]

    def finds_nothing(self, question: str, prompt: Prompt) -> bool:
        """Whether no passage fits the question that a prompt asks."""
        from refrag_components.index.matching import found_nothing

        return found_nothing(question, prompt.hits, self.generator.model.config.encoder)

    def _search(self, question: str, turns: Sequence[Turn]) -> list[Hit]:
        hits = self._index.search(question, self._passages)
        if turns:  # a question such as "And who paid for it?" may need the one before it
            hits += self._index.search(f"{turns[-1].question} {question}", self._passages)
            best = {hit.key: hit for hit in sorted(hits, key=lambda hit: hit.score)}
            hits = sorted(best.values(), key=lambda hit: -hit.score)[: self._passages]
        if not hits:
            raise EmptyInputError(
                f"{self._index.folder} holds no passages; index a folder into it first"
            )
        return hits

    def _request(self, question: str, hits: Sequence[Hit], turns: Sequence[Turn]) -> Request:
        """The prompt of most LangChain tutorials, with each passage as a separate part.

        What was said before is compressed like passages.
        """
        from refrag_components.generation.requests import Request
        from refrag_components.prompts.parts import Message, Part, PassagePart, TextPart
        from refrag_components.prompts.rendering import render

        messages: list[Message] = []
        for turn in turns:
            for role, text in (("user", turn.question), ("assistant", turn.answer)):
                messages.append(Message(role, (PassagePart(text, self._history),)))
        parts: list[Part] = [TextPart("Answer the question based only on the following context:\n")]
        for hit in hits:
            parts += [PassagePart(hit.text), TextPart("\n\n")]
        parts.append(TextPart(f"Question: {question}"))
        messages.append(Message("user", tuple(parts)))
        return Request(render(messages, self.generator.model.tokenizer), question)


@contextmanager
def open_to_ask(
    folder: Path,
    *,
    model_name: str | None,
    policy: str,
    budget: str,
    rest: str,
    passages: int,
    max_tokens: int,
    store: str | None,
    device: str | None,
    threads: int | None,
) -> Iterator[Asking]:
    """Loads an index and its model; mistakes do not wait for the model."""
    from refrag_components.index import index_info
    from refrag_components.index.store import check_store, store_name
    from refrag_components.policies import check_policy

    allowed = parse_budget(_number(budget))
    left = parse_rest(rest)
    check_policy(policy)
    check_store(folder, index_info(folder).store, store_name(store))
    name, model = load_model_of(folder, model_name, device=device, threads=threads)

    from refrag_components.generation.generator import RefragGenerator
    from refrag_components.index import RefragIndex

    with RefragIndex.open(folder, model, store=store) as index:
        generator = RefragGenerator(
            model, store=index.store, policy=policy, budget=allowed, rest=left
        )
        yield Asking(index, generator, passages, max_tokens, name)
        generator.flush(_FLUSH_SECONDS)  # before the store is closed


def check_order(folder: Path, words: Sequence[str]) -> None:
    """Guesses what was meant if the question comes before the index.

    Raises:
        IndexFolderError: If it does.
    """
    from refrag_components.index.folder import META_FILE

    if (folder / META_FILE).is_file() or not words or not (Path(words[-1]) / META_FILE).is_file():
        return
    question = " ".join([str(folder), *words[:-1]])
    raise IndexFolderError(
        "the index comes first; did you mean "
        f"refrag ask {shlex.quote(words[-1])} {shlex.quote(question)}"
    )


def _number(budget: str) -> float | str:
    """A budget as typed; what is neither number nor time is refused with typer's own error."""
    if budget.endswith("ms"):
        return budget
    try:
        return int(budget) if budget.isdigit() else float(budget)
    except ValueError as error:
        raise typer.BadParameter(f"{budget!r} is not a number", param_hint="--budget") from error


def sources_of(hits: Sequence[Hit]) -> str:
    """Where passages come from, each place once."""
    places = (place for hit in hits for place in (hit.place, *hit.sources[1:]))
    return ", ".join(shown(nearby(place)) for place in dict.fromkeys(places))


def nearby(place: str) -> str:
    """A path as one would type it here: without the folder that we are in."""
    return place.removeprefix(f"{Path.cwd()}{os.sep}")


def summarise(report: Report, hits: Sequence[Hit]) -> None:
    """Tells what happened, apart from the answer."""
    lines = [
        f"Context: {report.context_tokens} tokens in {report.context_positions} positions (rate "
        f"{report.rate:.1f}), {report.expanded} of {report.chunks} chunks expanded, "
        f"{report.compressed} compressed, {report.dropped} dropped",
        f"Passages: {report.cache_hits} from the store, {report.cache_misses} encoded now; "
        f"first token after {report.time_to_first_token:.2f} s",
        f"Sources: {sources_of(hits)}",
    ]
    for line in lines:
        say(line)
    for warning in report.warnings:
        say(shown(warning), "yellow")
