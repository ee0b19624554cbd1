"""``refrag ask``: answer a question from an index."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from refrag_components.cli.asking import (
    BudgetOption,
    IndexArgument,
    MaxTokensOption,
    PassagesOption,
    PolicyOption,
    RestOption,
    check_order,
    nearby,
    open_to_ask,
    summarise,
)
from refrag_components.cli.common import (
    DeviceOption,
    IndexModelOption,
    StoreOption,
    ThreadsOption,
    check_writable,
    output,
    say,
    shown,
)
from refrag_components.cli.explained import explained
from refrag_components.cli.limits import tell_nothing_found, tell_purpose
from refrag_components.exceptions import EmptyInputError
from refrag_components.policies.budget import DEFAULT_REST
from refrag_components.policies.names import DEFAULT_POLICY

if TYPE_CHECKING:
    from refrag_components.generation.report import Report
    from refrag_components.index import Hit

__all__ = ["AskCommand", "ask"]


class AskCommand(TyperCommand):
    """Lets ``--explain`` be followed by the name of a page, and by nothing else."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes the name as the value of another option."""
        parsed: list[str] = []
        for arg in args:
            if parsed[-1:] == ["--explain"] and Path(arg).suffix.lower() in (".htm", ".html"):
                parsed[-1:] = ["--explain-page", arg]
            else:
                parsed.append(arg)
        return super().parse_args(ctx, parsed)


def ask(
    folder: IndexArgument,
    question: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="What you want to know.")
    ],
    model_name: IndexModelOption = None,
    policy: PolicyOption = DEFAULT_POLICY,
    budget: BudgetOption = "0.25",
    rest: RestOption = DEFAULT_REST,
    passages: PassagesOption = 5,
    max_tokens: MaxTokensOption = 256,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show what was read as text, as chunk embeddings or not at all; with a name, as "
            "in --explain page.html, in a page for the browser.",
        ),
    ] = False,
    explain_page: Annotated[
        Path | None, typer.Option("--explain-page", metavar="FILE", hidden=True)
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write answer, passages and report as one JSON object."),
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Answer even if no passage seems to fit the question."),
    ] = False,
    store: StoreOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Answer a question from an index; the answer streams as it is generated.

    The bundled model is small: it is for short factual questions in English. If no passage fits the
    question, that is said instead of an answer.
    """
    # Mistakes should not wait for the model.
    if explain and as_json:
        raise typer.BadParameter("give --explain or --json, not both", param_hint="--json")
    check_order(folder, question)
    asked = " ".join(question)
    if not asked.strip():
        raise EmptyInputError("the question is empty; ask something")
    check_writable(explain_page)
    with open_to_ask(
        folder,
        model_name=model_name,
        policy=policy,
        budget=budget,
        rest=rest,
        passages=passages,
        max_tokens=max_tokens,
        store=store,
        device=device,
        threads=threads,
    ) as asking:
        from refrag_components.engines import SamplingParams

        prompt = asking.prompt(asked)
        generator, hits = asking.generator, prompt.hits
        if not anyway and asking.finds_nothing(asked, prompt):
            if as_json:
                output.out(_as_json("", hits, None), highlight=False)
            else:
                tell_nothing_found(folder, hits)
            return
        view = None
        if explain or explain_page is not None:
            prepared = generator.prepare(prompt.request, max_tokens=max_tokens)
            found = [(nearby(hit.place), hit.score) for hit in hits]
            view = generator.explain(prepared, asked).from_search(found)
            if explain:
                output.print(explained(view, output), soft_wrap=True)
        started = time.perf_counter()
        answer = ""
        for delta in generator.stream(prompt.request, SamplingParams(max_tokens=max_tokens)):
            answer += delta.text
            if not as_json:
                output.out(shown(delta.text), end="", highlight=False)
            if delta.report is None:
                continue
            if as_json:
                output.out(_as_json(answer, hits, delta.report), highlight=False)
            else:
                output.line()
                summarise(delta.report, hits)
                tell_purpose(asking.model_name)
            if view is not None and explain_page is not None:
                seconds = {
                    "search": prompt.search_seconds,
                    "whole answer": time.perf_counter() - started,
                }
                whole = replace(view, answer=answer, report=delta.report, seconds=seconds)
                whole.save(explain_page)
                say(f"Explained in {explain_page}")


def _as_json(answer: str, hits: Sequence[Hit], report: Report | None) -> str:
    """One object, on one line; no report means that no passage fits."""
    passages = [
        {
            "text": hit.text,
            "score": hit.score,
            "sources": hit.sources,
            "page": hit.page,
            "metadata": hit.metadata,
        }
        for hit in hits
    ]
    told = {
        "answer": answer,
        "found": report is not None,
        "passages": passages,
        "report": report and asdict(report),
    }
    return json.dumps(told)
