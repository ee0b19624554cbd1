from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refrag_components.cli import app, common
from refrag_components.cli.asking import Asking, Turn
from refrag_components.engines import SamplingParams
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import AnswerDelta, Request
from refrag_components.index import RefragIndex, matching
from refrag_components.modeling import RefragModel
from refrag_components.policies import FractionBudget
from refrag_components.prompts.parts import PassagePart
from tests.cli.conftest import HARBOUR, LIGHTHOUSE

Chat = Callable[..., Any]


@pytest.fixture
def chat(index: Path) -> Chat:
    """Runs the command with the given lines typed."""

    def run(*lines: str, tokens: int = 4) -> Any:
        arguments = ["chat", str(index), "--max-tokens", str(tokens)]
        return CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))

    return run


@pytest.fixture
def handled() -> Iterator[None]:
    """Ctrl-C raises, as in a process in the foreground."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def asking(tiny_model: RefragModel, tmp_path: Path) -> Iterator[Asking]:
    with RefragIndex.create(tmp_path / "i", tiny_model) as index:
        index.add_texts([HARBOUR, LIGHTHOUSE])
        yield Asking(
            index, RefragGenerator(tiny_model, store=index.store, rest="compress"), 1, 8, "tiny"
        )


def turns_in(request: Request) -> list[str]:
    return [part.text for part in request.parts if isinstance(part, PassagePart)][:-1]


def test_what_was_said_before_is_in_the_next_prompt(chat: Chat) -> None:
    result = chat("When was the harbour dug?", "", "And the lighthouse?", "Who keeps it?", "exit")
    assert result.exit_code == 0, result.output
    told = re.findall(r"\d+ positions, \d+ tokens in \d+ of them(.*?); first", result.stderr)
    assert told == ["", ", 1 earlier turns in it", ", 2 earlier turns in it"]
    assert result.stderr.count("Sources: ") == 3
    assert result.stderr.count("Loading") == 1


def test_the_end_of_the_input_ends_the_conversation(chat: Chat) -> None:
    assert chat("When was the harbour dug?").exit_code == 0
    assert chat().exit_code == 0


def test_that_nothing_fits_is_told_beside_the_answer(
    chat: Chat, tiny_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "No passage seems to fit this question"
    assert warning not in chat("When was the harbour dug?").stderr
    monkeypatch.setitem(matching._LEAST, tiny_model.config.encoder, 2.0)
    assert warning in chat("When was the harbour dug?").stderr


def test_history_is_compressed_and_kept_out_of_the_index(asking: Asking) -> None:
    before = sorted(asking.generator.store.yield_keys())
    turn = Turn("When was the harbour of Eastport dug?", "The harbour was dug in 1907, they say.")
    prompt = asking.prompt("And the lighthouse?", [turn])
    assert turns_in(prompt.request) == [turn.question, turn.answer]
    report = asking.generator.prepare(prompt.request).report
    assert report.compressed > 0
    asking.generator.flush()
    assert sorted(asking.generator.store.yield_keys()) == before
    asking.generator.budget = FractionBudget(0.0)
    compressed = asking.generator.prepare(prompt.request).report
    assert compressed.context_positions < compressed.context_tokens / 3


def test_the_oldest_turns_make_room(asking: Asking) -> None:
    long = [Turn(f"Question {n}? " + HARBOUR * 5, LIGHTHOUSE * 5) for n in range(9)]
    prompt = asking.prompt("And the lighthouse?", long)
    assert 0 < prompt.turns < len(long)
    texts = turns_in(prompt.request)
    assert texts[0] == long[-prompt.turns].question and texts[-2] == long[-1].question


def test_a_follow_up_is_searched_for_with_the_question_before_it(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    search = asking._index.search
    monkeypatch.setattr(asking._index, "search", lambda q, k: (searched.append(q), search(q, k))[1])
    hits = asking.prompt("And how high?", [Turn("What about the lighthouse?", "It is.")]).hits
    assert searched == ["And how high?", "What about the lighthouse? And how high?"]
    assert len(hits) == 1
    assert hits[0].score == max(hit.score for q in searched for hit in search(q, 2))


def test_an_interrupt_stops_the_answer_and_not_the_conversation(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def stream(self: RefragGenerator, request: Request, _: SamplingParams) -> Iterator[AnswerDelta]:
        asked.append(request)
        yield AnswerDelta("In nineteen")
        raise KeyboardInterrupt

    monkeypatch.setattr(RefragGenerator, "stream", stream)
    result = chat("When was the harbour dug?", "And the lighthouse?")
    assert result.exit_code == 0
    assert result.stdout == "In nineteen\nIn nineteen\n"
    assert result.stderr.count("Stopped") == 2
    # What was said so far is remembered.
    assert turns_in(asked[1])[:2] == ["When was the harbour dug?", "In nineteen"]


@pytest.mark.parametrize("said", ["In nineteen", ""])
def test_a_second_interrupt_does_not_end_the_conversation(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, handled: None, said: str
) -> None:
    """Neither while the answer is stopped nor while that is told."""

    def stream(self: RefragGenerator, _: Request, __: SamplingParams) -> Iterator[AnswerDelta]:
        try:
            yield AnswerDelta(said)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it was not stopped")
        finally:
            signal.raise_signal(signal.SIGINT)

    def say(*told: str) -> None:
        signal.raise_signal(signal.SIGINT)
        common.say(*told)

    monkeypatch.setattr(RefragGenerator, "stream", stream)
    monkeypatch.setattr(sys.modules["refrag_components.cli.chat"], "say", say)
    result = chat("When was the harbour dug?", "And the lighthouse?")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Stopped") == 2
    # Afterwards it is as it was.
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_the_first_word_leaves_no_turn(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prompt(self: Asking, question: str, turns: Sequence[Turn]) -> None:
        assert not turns
        raise KeyboardInterrupt

    monkeypatch.setattr(Asking, "prompt", prompt)
    result = chat("When?", "Where?")
    assert result.exit_code == 0
    assert result.stderr.count("Stopped") == 2


def test_a_question_that_does_not_fit_does_not_end_it(chat: Chat) -> None:
    result = chat("When? " * 400, "When was the harbour dug?")
    assert result.exit_code == 0
    assert "there is no room for an answer" in result.stderr
    assert result.stderr.count("Sources: ") == 1


def test_on_a_real_terminal(index: Path) -> None:
    """Ctrl-C at the prompt does not end it, Ctrl-D does; the answer is between."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # if ignored
        "from refrag_components.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "chat", str(index), "--max-tokens", "4"]
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    os.close(terminal)
    seen = ""

    def wait_for(text: str, *, interrupting: bool = False) -> None:
        nonlocal seen
        until = time.monotonic() + 300
        while text not in seen:
            assert time.monotonic() < until, seen
            if select.select([screen], [], [], 1)[0]:
                seen += os.read(screen, 4096).decode(errors="replace")
            elif interrupting:
                process.send_signal(signal.SIGINT)
        seen = seen.partition(text)[2]

    try:
        wait_for("> ")
        # Again after each quiet second: a signal that comes between the prompt and the wait for a
        # key is noticed with the next one.
        wait_for("exit ends the conversation", interrupting=True)
        os.write(screen, b"When was the harbour dug?\n")
        wait_for("Sources: ")
        wait_for("> ")
        os.write(screen, b"\x04")
        assert process.wait(300) == 0
    finally:
        process.kill()
        os.close(screen)
