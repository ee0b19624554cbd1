from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup
from rich.console import Console

from refrag_components.cli import ask, limits
from refrag_components.index import matching
from refrag_components.modeling import RefragModel
from refrag_components.policies.budget import BUDGETS
from refrag_components.policies.names import DEFAULT_POLICY, POLICIES
from tests.cli.conftest import HARBOUR, LIGHTHOUSE, Run
from tests.made_files import pdf

QUESTION = "When was the harbour of Eastport dug?"


def test_an_answer_goes_to_stdout_and_its_report_to_stderr(
    refrag: Run, index: Path, tiny_folder: Path
) -> None:
    result = refrag("ask", index, QUESTION, "--model", tiny_folder, "--max-tokens", 8)
    assert result.exit_code == 0
    assert result.stdout.strip()
    assert re.search(r"Context: \d+ tokens in \d+ positions \(rate \d\.\d\), \d+ of", result.stderr)
    assert "Passages: 2 from the store, 0 encoded now; first token after" in result.stderr
    assert "harbour.md" in result.stderr and "lighthouse.txt" in result.stderr


def test_fewer_passages_can_be_asked_for(refrag: Run, index: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--passages", 1)
    result = refrag("ask", index, QUESTION, *options)
    assert "Passages: 1 from the store" in result.stderr


@pytest.mark.parametrize(
    ("options", "expanded"),
    [
        (("--policy", "none", "--rest", "compress"), "0 of"),
        (("--budget", "0", "--rest", "compress"), "0 of"),
        (("--budget", "1.0"), None),
    ],
)
def test_policy_and_budget_decide_what_expands(
    refrag: Run, index: Path, tiny_folder: Path, options: tuple[str, ...], expanded: str | None
) -> None:
    result = refrag("ask", index, QUESTION, "--model", tiny_folder, "--max-tokens", 2, *options)
    counts = re.search(r"(\d+) of (\d+) chunks expanded", result.stderr)
    assert counts is not None
    assert counts[0].startswith(expanded or f"{counts[2]} of")


def test_a_budget_of_positions_is_kept(refrag: Run, index: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--passages", 1, "--budget", 30)
    result = refrag("ask", index, QUESTION, *options)
    positions = re.search(r"in (\d+) positions", result.stderr)
    assert positions is not None
    assert int(positions[1]) <= 30


@pytest.mark.parametrize("budget", [2, 0.25])
def test_the_rest_is_dropped(refrag: Run, index: Path, tiny_folder: Path, budget: float) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--budget", budget)
    result = refrag("ask", index, QUESTION, *options)
    counts = re.search(
        r"(\d+) of (\d+) chunks expanded, (\d+) compressed, (\d+) dropped", result.stderr
    )
    assert counts is not None
    expanded, chunks, compressed, dropped = map(int, counts.groups())
    assert compressed == 0
    assert dropped == chunks - expanded > 0
    result = refrag("ask", index, QUESTION, "--model", "no-such-model", "--rest", "delete")
    assert result.stderr.startswith("Error: rest 'delete' is not 'compress' or 'drop'")


def test_explain_shows_every_chunk(refrag: Run, index: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--explain", "--rest", "compress")
    result = refrag("ask", index, QUESTION, *options)
    shown = result.stdout.partition("~not read~\n\n")[2]
    assert HARBOUR in re.sub(r"[«»\[\]]", "", shown)
    assert "«" in shown and "[" in shown
    assert f"Question: {QUESTION}" in shown
    labels = re.findall(
        r"^(\d)\. (.+), score (-?\d\.\d\d), \d+ tokens in \d+ positions, 4 per embedding$",
        shown,
        re.MULTILINE,
    )
    assert [number for number, _, _ in labels] == ["1", "2"]
    assert {Path(source).name for _, source, _ in labels} == {"harbour.md", "lighthouse.txt"}


def test_explained_chunks_have_brackets_where_there_is_no_colour(
    refrag: Run, index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "output", Console(force_terminal=True, no_color=True))
    options = ("--model", tiny_folder, "--max-tokens", 2, "--explain")
    assert "«" in refrag("ask", index, QUESTION, *options).stdout


@pytest.mark.parametrize("name", ["page.html", "PAGE.HTM"])
def test_a_page_explains_the_answer(
    refrag: Run, index: Path, tiny_folder: Path, tmp_path: Path, name: str
) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 8, "--explain", tmp_path / name)
    result = refrag("ask", index, QUESTION, *options)
    assert result.exit_code == 0, result.output
    assert "«" not in result.stdout and "Explained in" in result.stderr
    page = BeautifulSoup((tmp_path / name).read_text(encoding="utf-8"), "lxml")
    text = page.get_text()
    answer = page.select_one(".answer")
    assert answer is not None and answer.text == result.stdout.rstrip("\n")
    assert HARBOUR in text and LIGHTHOUSE in text and "harbour.md" in text
    for told in ("search", "first token after", "whole answer", "score"):
        assert told in text


def test_sources_are_named_as_one_would_type_them(
    refrag: Run, index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(index.parent)
    options = ("--model", tiny_folder, "--max-tokens", 2, "--explain")
    result = refrag("ask", index, QUESTION, *options)
    sources = re.findall(r"Sources: (.*), (.*)\n", result.stderr)
    assert {*sources[0]} == {"docs/harbour.md", "docs/lighthouse.txt"}
    assert "1. docs/" in result.stdout


def test_sources_have_pages(refrag: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "port.pdf").write_bytes(pdf(LIGHTHOUSE, HARBOUR))
    made = refrag("index", tmp_path / "docs", "--out", tmp_path / "i", "--model", tiny_folder,
        "--passage-tokens", 32)  # fmt: skip
    assert made.exit_code == 0, made.output
    result = refrag("ask", tmp_path / "i", QUESTION, "--max-tokens", 2, "--explain")
    assert "port.pdf, page 1" in result.stderr and "port.pdf, page 2" in result.stderr
    assert "port.pdf, page 2, score " in result.stdout


def test_explain_takes_no_other_word_for_its_page(
    refrag: Run, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--explain")
    result = refrag("ask", *options, index, QUESTION)
    assert result.exit_code == 0 and "«" in result.stdout
    page = tmp_path / "nowhere" / "page.html"
    result = refrag("ask", index, QUESTION, "--model", "no-such-model", "--explain", page)
    assert result.exit_code == 1 and "nowhere is not a folder; make it first" in result.stderr


def test_a_page_and_json_can_both_be_had(
    refrag: Run, index: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--json")
    result = refrag("ask", index, QUESTION, *options, "--explain", tmp_path / "page.html")
    assert json.loads(result.stdout)["report"]["output_tokens"] == 2
    assert (tmp_path / "page.html").is_file()


def test_an_answer_can_be_had_as_json(refrag: Run, index: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--json")
    result = json.loads(refrag("ask", index, QUESTION, *options).stdout)
    assert isinstance(result["answer"], str) and result["found"]
    assert {passage["text"] for passage in result["passages"]} == {HARBOUR, LIGHTHOUSE}
    assert all(len(passage["sources"]) == 1 for passage in result["passages"])
    assert result["report"]["output_tokens"] == 2
    assert refrag("ask", index, QUESTION, *options, "--explain").exit_code == 2


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch, tiny_model: RefragModel) -> None:
    """No passage fits any question that the tiny model is asked."""
    monkeypatch.setitem(matching._LEAST, tiny_model.config.encoder, 2.0)


def test_that_nothing_fits_is_told_instead_of_an_answer(
    refrag: Run, index: Path, tiny_folder: Path, strict: None
) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2)
    result = refrag("ask", index, "Who is the king of Norway?", *options)
    assert result.exit_code == 0
    assert result.stdout == f"Nothing in {index} fits this question.\n"
    assert re.search(r"The closest passage, of \S+, has a score of -?\d\.\d\d\.", result.stderr)
    assert "--anyway" in result.stderr
    told = json.loads(refrag("ask", index, "Who is the king?", *options, "--json").stdout)
    assert (told["answer"], told["found"], told["report"]) == ("", False, None)
    assert len(told["passages"]) == 2


def test_an_answer_can_be_had_anyway(
    refrag: Run, index: Path, tiny_folder: Path, strict: None
) -> None:
    result = refrag("ask", index, QUESTION, "--model", tiny_folder, "--max-tokens", 2, "--anyway")
    assert "Nothing" not in result.stdout
    assert "Context: " in result.stderr


def test_what_the_bundled_model_is_for_is_told(
    refrag: Run,
    index: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2)
    assert "in English" not in refrag("ask", index, QUESTION, *options).stderr
    monkeypatch.setattr(limits, "bundled_names", lambda: [str(tiny_folder)])
    told = refrag("ask", index, QUESTION, *options).stderr
    assert f"{tiny_folder} is a small model (135M parameters) for short factual questions" in told
    assert "short factual questions in English" in " ".join(refrag("ask", "--help").stdout.split())


@pytest.mark.parametrize("budget", ["much", "nan", "-1", "1.5", ""])
def test_an_impossible_budget_is_refused(refrag: Run, index: Path, budget: str) -> None:
    result = refrag("ask", index, QUESTION, "--model", "no-such-model", f"--budget={budget}")
    assert result.exit_code in (1, 2)
    assert "budget" in result.stderr
    assert "no-such-model" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "  "], "the question is empty; ask something"),
        (
            ["index", QUESTION, "--policy", "best"],
            "unknown policy 'best'; choose one of auto, all, ",
        ),
        (["docs", QUESTION], "docs holds no index; make one with `refrag index`"),
        (
            [QUESTION, "index"],
            f"the index comes first; did you mean refrag ask index '{QUESTION}'",
        ),
        (
            ["When", "was", "it", "dug?", "index"],
            "the index comes first; did you mean refrag ask index 'When was it dug?'",
        ),
    ],
)
def test_mistakes_are_one_line_and_do_not_wait_for_the_model(
    refrag: Run,
    index: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(index.parent)
    result = refrag("ask", *arguments, "--model", "no-such-model")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_a_question_needs_no_quotation_marks(refrag: Run, index: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--max-tokens", 2, "--explain")
    result = refrag("ask", index, *QUESTION.split(), *options)
    assert f"Question: {QUESTION}" in result.stdout


def test_threads_and_device(
    refrag: Run, index: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    options = ("--model", tiny_folder, "--max-tokens", 2, "--threads", 3, "--device", "cpu")
    assert refrag("ask", index, QUESTION, *options).exit_code == 0
    assert asked == [3]
    result = refrag("ask", index, QUESTION, "--model", tiny_folder, "--device", "abacus")
    assert result.exit_code == 1
    assert "Error: there is no device 'abacus' for PyTorch here" in result.stderr


def test_documents_send_no_commands_to_the_terminal(
    refrag: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("The harbour \x1b]0;owned\x07 of \x1b[2JEastport.")
    refrag("index", tmp_path / "docs", "--out", tmp_path / "i", "--model", tiny_folder)
    result = refrag("ask", tmp_path / "i", QUESTION, "--max-tokens", 2, "--explain")
    assert "Eastport" in re.sub(r"[«»\[\]]", "", result.stdout)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.output)


def test_half_characters_in_a_question(refrag: Run, index: Path, tiny_folder: Path) -> None:
    result = refrag("ask", index, "Why\udcff?", "--max-tokens", 2, "--explain")
    assert result.exit_code == 0
    assert "Question: Why??" in result.stdout


def test_help_lists_every_policy_and_every_kind_of_budget(refrag: Run) -> None:
    shown = " ".join(refrag("ask", "--help").stdout.replace("│", " ").split())
    for told in (*POLICIES, DEFAULT_POLICY, *(kind.meaning for kind in BUDGETS)):
        assert told in shown
