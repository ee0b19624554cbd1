"""``refrag chat``: a conversation about an index."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from refrag_components.cli.asking import (
    Asking,
    BudgetOption,
    IndexArgument,
    MaxTokensOption,
    PassagesOption,
    PolicyOption,
    RestOption,
    Turn,
    open_to_ask,
    sources_of,
)
from refrag_components.cli.common import (
    DeviceOption,
    IndexModelOption,
    StoreOption,
    ThreadsOption,
    output,
    say,
    shown,
)
from refrag_components.cli.interrupts import Interrupts, interrupts_once
from refrag_components.exceptions import ContextWindowError
from refrag_components.policies.budget import DEFAULT_REST
from refrag_components.policies.names import DEFAULT_POLICY

if TYPE_CHECKING:
    from refrag_components.cli.asking import Prompt
    from refrag_components.generation.report import Report

__all__ = ["chat"]

_PROMPT = "> "
_LEAVE = ("exit", "quit")


def chat(
    folder: IndexArgument,
    model_name: IndexModelOption = None,
    policy: PolicyOption = DEFAULT_POLICY,
    budget: BudgetOption = "0.25",
    rest: RestOption = DEFAULT_REST,
    passages: PassagesOption = 5,
    max_tokens: MaxTokensOption = 256,
    store: StoreOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Talk about an index; what was said before is compressed. Ctrl-C stops an answer."""
    with (
        open_to_ask(
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
        ) as asking,
        interrupts_once() as interrupts,
    ):
        _converse(asking, interrupts)


def _converse(asking: Asking, interrupts: Interrupts) -> None:
    """Answers questions until there are no more."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and earlier lines)
        say("Ask something; Ctrl-C stops an answer, Ctrl-D or exit ends the conversation")
    turns: list[Turn] = []
    while True:
        try:
            with interrupts.allowed():
                question = input(_PROMPT if typed else "").strip()
        except KeyboardInterrupt:
            output.line()
            say("Ctrl-D or exit ends the conversation")
            continue
        except EOFError:
            break
        if question.lower() in _LEAVE:
            break
        if not question:
            continue
        try:
            answer = _answer(asking, question, turns, interrupts)
        except KeyboardInterrupt:  # before its first word
            output.line()
            say("Stopped", "yellow")
            continue
        except ContextWindowError as error:  # another question may be shorter
            say(str(error), "yellow")
            continue
        if answer.strip():
            turns.append(Turn(question, answer))
    if typed:
        output.line()


def _answer(asking: Asking, question: str, turns: list[Turn], interrupts: Interrupts) -> str:
    """Streams one answer, as far as it is not stopped, and tells what happened."""
    from refrag_components.engines import SamplingParams

    answer, report = "", None
    params = SamplingParams(max_tokens=asking.max_tokens)
    with interrupts.allowed():
        prompt = asking.prompt(question, turns)
        if asking.finds_nothing(question, prompt):
            say("No passage seems to fit this question", "yellow")
        stream = asking.generator.stream(prompt.request, params)
    try:
        with interrupts.allowed():
            for delta in stream:
                answer += delta.text
                output.out(shown(delta.text), end="", highlight=False)
                report = delta.report
    except KeyboardInterrupt:
        if not answer:
            raise
    finally:
        stream.close()
    output.line()
    if report is None:
        say("Stopped", "yellow")
    else:
        _summarise(report, prompt, len(turns))
    return answer


def _summarise(report: Report, prompt: Prompt, turns: int) -> None:
    history = f", {prompt.turns} earlier turns in it" if prompt.turns else ""
    say(
        f"{report.positions} positions, {report.context_tokens} tokens in "
        f"{report.context_positions} of them{history}; first token after "
        f"{report.time_to_first_token:.2f} s"
    )
    if left_out := turns - prompt.turns:
        say(f"{left_out} of the oldest turns no longer fit and were left out", "yellow")
    say(f"Sources: {sources_of(prompt.hits)}")
    for warning in report.warnings:
        say(shown(warning), "yellow")
