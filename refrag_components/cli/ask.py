"""``refrag ask``: answer a question from an index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from refrag_components.cli.common import IndexModelOption, StoreOption, load_model_of, output, say
from refrag_components.cli.limits import tell_nothing_found, tell_purpose
from refrag_components.exceptions import EmptyInputError
from refrag_components.policies.budget import BUDGETS, RESTS, parse_budget, parse_rest
from refrag_components.policies.names import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from refrag_components.generation.report import Report
    from refrag_components.index import Hit
    from refrag_components.prompts.parts import Message

__all__ = ["ask"]

_FLUSH_SECONDS = 5.0  # for chunk vectors that only save time the next time

# Readable on light and dark terminals, with 16 colours too; neighbours must differ.
_EXPANDED, _COMPRESSED, _LABEL = "black on green", ("dim", "dim underline"), "bold"


def ask(
    folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Folder that `refrag index` wrote.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.")],
    model_name: IndexModelOption = None,
    policy: Annotated[
        str,
        typer.Option(
            help=f"Chooses the chunks to expand: {', '.join(POLICIES)} (a checkpoint may lack the "
            f"learned ones). {DEFAULT_POLICY} is learned-query if the checkpoint has it, else "
            "late-interaction."
        ),
    ] = DEFAULT_POLICY,
    budget: Annotated[
        str,
        typer.Option(
            help=f"How much may expand: {', or '.join(kind.meaning for kind in BUDGETS)}. "
            "Positions are filled from the top: text, then ever coarser chunk embeddings."
        ),
    ] = "0.25",
    rest: Annotated[
        str,
        typer.Option(help=f"What becomes of chunks that do not expand: {' or '.join(RESTS)}."),
    ] = "compress",
    k: Annotated[int, typer.Option("--k", min=1, help="Passages to retrieve.")] = 5,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of the answer in tokens.")
    ] = 256,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each chunk as compressed or expanded.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write answer, passages and report as one JSON object."),
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Answer even if no passage seems to fit the question."),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Answer a question from an index; the answer streams as it is generated.

    The bundled model is small: it is for short factual questions in English. If no passage fits the
    question, that is said instead of an answer.
    """
    from refrag_components.engines import SamplingParams
    from refrag_components.generation.generator import RefragGenerator
    from refrag_components.generation.requests import Request
    from refrag_components.index import RefragIndex, index_info
    from refrag_components.index.matching import found_nothing
    from refrag_components.index.store import check_store, store_name
    from refrag_components.policies import check_policy
    from refrag_components.prompts.rendering import render

    # Mistakes should not wait for the model.
    if explain and as_json:
        raise typer.BadParameter("give --explain or --json, not both", param_hint="--json")
    if not question.strip():
        raise EmptyInputError("the question is empty; ask something")
    allowed = parse_budget(_number(budget))
    left = parse_rest(rest)
    check_policy(policy)
    check_store(folder, index_info(folder).store, store_name(store))
    name, model = load_model_of(folder, model_name)
    with RefragIndex.open(folder, model, store=store) as index:
        hits = index.search(question, k)
        if not hits:
            raise EmptyInputError(f"{folder} holds no passages; index a folder into it first")
        if not anyway and found_nothing(question, hits, model.config.encoder):
            if as_json:
                output.out(_as_json("", hits, None), highlight=False)
            else:
                tell_nothing_found(folder, hits)
            return
        generator = RefragGenerator(
            model, store=index.store, policy=policy, budget=allowed, rest=left
        )
        message = _message(question, [hit.text for hit in hits])
        request = Request(render([message], model.tokenizer), question)
        if explain:
            spans = generator.explain(generator.prepare(request, max_tokens=max_tokens))
            plain = output.color_system is None or output.no_color
            labels = [
                f"{number}. {hit.source}, score {hit.score:.2f}"
                for number, hit in enumerate(hits, start=1)
            ]
            output.print(_explained(spans, labels, plain=plain), soft_wrap=True)
        answer = ""
        for delta in generator.stream(request, SamplingParams(max_tokens=max_tokens)):
            answer += delta.text
            if as_json and delta.report is not None:
                output.out(_as_json(answer, hits, delta.report), highlight=False)
            if as_json:
                continue
            output.out(delta.text, end="", highlight=False)
            if delta.report is not None:
                output.line()
                _summarise(delta.report, [source for hit in hits for source in hit.sources])
                tell_purpose(name)
        generator.flush(_FLUSH_SECONDS)  # before the store is closed


def _number(budget: str) -> float | str:
    """A budget as typed; what is neither number nor time is refused with typer's own error."""
    if budget.endswith("ms"):
        return budget
    try:
        return int(budget) if budget.isdigit() else float(budget)
    except ValueError as error:
        raise typer.BadParameter(f"{budget!r} is not a number", param_hint="--budget") from error


def _message(question: str, passages: Sequence[str]) -> Message:
    """The prompt of most LangChain tutorials, with each passage as a separate part."""
    from refrag_components.prompts.parts import Message, Part, PassagePart, TextPart

    parts: list[Part] = [TextPart("Answer the question based only on the following context:\n")]
    for passage in passages:
        parts += [PassagePart(passage), TextPart("\n\n")]
    parts.append(TextPart(f"Question: {question}"))
    return Message("user", tuple(parts))


def _explained(
    spans: Iterable[tuple[str, bool | None]], labels: Iterable[str] = (), *, plain: bool
) -> Text:
    """The prompt with every chunk in the style, or the brackets, that shows what became of it.

    Args:
        spans: See ``RefragGenerator.explain``.
        labels: Of the passages, in order; each stands on a line before its passage.
        plain: Use brackets.
    """
    text = Text()
    remaining, inside = iter(labels), False

    def add_chunk(chunk: str, expanded: bool, number: int = 0) -> None:
        if plain:
            text.append(f"«{chunk}»" if expanded else f"[{chunk}]")
        else:
            text.append(chunk, _EXPANDED if expanded else _COMPRESSED[number % 2])

    add_chunk("expanded", True)
    text.append(" chunks are read token by token, ")
    add_chunk("compressed", False)
    text.append(" chunks as one position each\n\n")
    for number, (span, expanded) in enumerate(spans):
        if expanded is None:
            text.append(span)
        else:
            if not inside and (label := next(remaining, "")):
                text.append(f"{label}\n", _LABEL)
            add_chunk(span, expanded, number)
        inside = expanded is not None
    return text.append("\n")


def _as_json(answer: str, hits: Sequence[Hit], report: Report | None) -> str:
    """One object, on one line; no report means that no passage fits."""
    passages = [
        {"text": hit.text, "score": hit.score, "sources": hit.sources, "metadata": hit.metadata}
        for hit in hits
    ]
    told = {
        "answer": answer,
        "found": report is not None,
        "passages": passages,
        "report": report and asdict(report),
    }
    return json.dumps(told)


def _summarise(report: Report, sources: Sequence[str]) -> None:
    lines = [
        f"Context: {report.context_tokens} tokens in {report.context_positions} positions (rate "
        f"{report.rate:.1f}), {report.expanded} of {report.chunks} chunks expanded, "
        f"{report.compressed} compressed, {report.dropped} dropped",
        f"Passages: {report.cache_hits} from the store, {report.cache_misses} encoded now; "
        f"first token after {report.time_to_first_token:.2f} s",
        f"Sources: {', '.join(dict.fromkeys(sources))}",
    ]
    for line in lines:
        say(line)
    for warning in report.warnings:
        say(warning, "yellow")
