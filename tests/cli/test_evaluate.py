from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refrag_components.cli import app
from refrag_components.corpus import prepare_corpus
from refrag_components.evaluation.answers.contexts import RETRIEVALS
from refrag_components.evaluation.methods import METHODS
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT

PNG = b"\x89PNG\r\n\x1a\n"


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    return result.exit_code, result.output + str(result.exception or "")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "harbour.valid.jsonl"
    record = {
        "question": "When was the harbour dug?",
        "answers": ["1907"],
        "passages": [{"id": str(i), "text": text} for i, text in enumerate(TEXT)],
        "gold": ["0"],
        "type": "extractive",
    }
    path.write_text("".join(json.dumps(record | {"id": str(i)}) + "\n" for i in range(5)))
    return path


@pytest.fixture(scope="module")
def prepared(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "valid"
    prepare_corpus(["\n\n".join(TEXT)] * 16, tiny_model.tokenizer, folder)
    return folder


def test_questions_are_answered_tabled_and_drawn(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    arguments = ("qa", questions, "--model", tiny_folder, "--out", tmp_path, "--items", 3)
    few = ("--policy", "random", "--expanded", 0.25, "--passages", 1, "--passages", 2)
    retrievals = ("--retrieval", "strong", "--retrieval", "weak")
    code, output = invoke(*arguments, *few, *retrievals)
    assert code == 0, output
    assert "harbour.valid: 3 questions" in output
    figures = json.loads((tmp_path / "qa.json").read_text())
    assert figures["model"] == str(tiny_folder)
    assert len(figures["tables"]) == 4
    assert "## harbour.valid: 3 questions, 1 passage, strong" in (tmp_path / "qa.md").read_text()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert "f1-retrieval-harbour.valid.png" in pictures
    assert "f1-passages-harbour.valid-strong.png" in pictures
    assert "log-ppl-positions-harbour.valid-weak-2.png" in pictures
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in pictures)

    for path in tmp_path.glob("*.png"):
        path.unlink()
    code, output = invoke("plot", tmp_path)
    assert code == 0, output
    assert {path.name for path in tmp_path.glob("*.png")} == pictures


def test_continuations_are_measured_tabled_and_drawn(
    tiny_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    code, output = invoke(
        *("perplexity", "--text", prepared, "--model", tiny_folder, "--out", tmp_path),
        *("--context", 256, "--output", 16, "--windows", 2, "--shuffled"),
        *("--policy", "recent", "--expanded", 0.25, "--chunk-size", 4),
    )
    assert code == 0, output
    assert "p=0.25, recent" in output
    tables = json.loads((tmp_path / "perplexity.json").read_text())["tables"]
    assert [table["order"] for table in tables] == ["in order", "paragraphs shuffled"]
    ways = [row["method"] for row in tables[0]["rows"]]
    assert ways == ["none", "full", "compressed", "last-0", "last-0.25", "recent-0.25"]
    assert (tmp_path / "perplexity-k4-in-order.png").read_bytes().startswith(PNG)


def test_contexts_beyond_the_window_are_measured_beside_an_ensemble(
    tiny_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    code, output = invoke(
        *("perplexity", "--text", prepared, "--model", tiny_folder, "--out", tmp_path),
        *("--context", 256, "--context", 512, "--output", 16, "--windows", 2, "--replug"),
        *("--policy", "recent", "--expanded", 0.5, "--chunk-size", 4),
    )
    assert code == 0, output
    short, long = json.loads((tmp_path / "perplexity.json").read_text())["tables"]
    rows = [{row["method"]: row for row in table["rows"]} for table in (short, long)]
    assert [row["full"]["positions"] for row in rows] == [256, 235]  # 512 less what comes after
    assert [row["compressed"]["positions"] for row in rows] == [64, 128]
    assert rows[1]["recent-0.5"]["positions"] <= 235
    assert rows[1]["replug"]["label"] == "REPLUG"
    # One passage alone is the same as all of it.
    assert rows[0]["replug"]["log_ppl"] == pytest.approx(rows[0]["full"]["log_ppl"], abs=1e-4)
    assert rows[1]["replug"]["log_ppl"] != pytest.approx(rows[1]["full"]["log_ppl"], abs=1e-3)
    beside = {pair["a"] for pair in long["pairs"] if pair["b"] == "replug"}
    assert beside >= {"compressed", "recent-0.5"}
    assert "| p=0 | REPLUG |" in (tmp_path / "perplexity.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "perplexity-k4-s256-in-order.png",
        "perplexity-k4-s512-in-order.png",
    }


def test_bfloat16_on_a_processor_changes_figures_little(
    tiny_folder: Path, prepared: Path, questions: Path, tmp_path: Path
) -> None:
    few = ("--policy", "recent", "--expanded", 0.25, "--model", tiny_folder, "--no-plots")
    found = []
    for precision in ((), ("--bf16",)):
        out = tmp_path / str(len(precision))
        sizes = ("--windows", 4, "--context", 256, "--output", 16, "--chunk-size", 4)
        code, output = invoke(
            "perplexity", "--text", prepared, *sizes, *few, *precision, "--out", out
        )
        assert code == 0, output
        code, output = invoke("qa", questions, "--items", 2, *few, *precision, "--out", out)
        assert code == 0, output
        tables = [json.loads((out / f"{name}.json").read_text()) for name in ("perplexity", "qa")]
        rows = [row for table in tables for row in table["tables"][0]["rows"]]
        found.append([row["log_ppl"] for row in rows])
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[1] != found[0]


def test_answers_are_measured_at_another_chunk_size(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    few = ("--policy", "recent", "--expanded", 0.25, "--items", 2, "--no-plots")
    positions = []
    for k in (2, 4):
        out = tmp_path / str(k)
        arguments = ("qa", questions, "--model", tiny_folder, "--chunk-size", k, "--out", out)
        code, output = invoke(*arguments, *few)
        assert code == 0, output
        figures = json.loads((out / "qa.json").read_text())
        assert figures["chunk_size"] == k
        assert f"k={k}." in (out / "qa.md").read_text()
        rows = {row["method"]: row for row in figures["tables"][0]["rows"]}
        positions.append(rows["compressed"]["context_positions"])
    assert positions[0] == pytest.approx(2 * positions[1], rel=0.2)

    code, output = invoke(
        *("qa", questions, "--model", tiny_folder, "--chunk-size", 99, "--out", tmp_path / "99")
    )
    assert code == 1
    assert "chunk_size must be from 1 to max_chunk_size" in output


def test_rows_are_chosen_by_kind(tiny_folder: Path, questions: Path, tmp_path: Path) -> None:
    kinds = ("none", "full", "gold", "keep", "drop", "text")
    code, output = invoke(
        *("qa", questions, "--model", tiny_folder, "--out", tmp_path, "--items", 3, "--no-plots"),
        *("--policy", "recent", "--expanded", 0.25),
        *(own for kind in kinds for own in ("--method", kind)),
    )
    assert code == 0, output
    (table,) = json.loads((tmp_path / "qa.json").read_text())["tables"]
    assert {row["kind"] for row in table["rows"]} == {*kinds}
    names = [row["method"] for row in table["rows"] if row["selection"]]
    assert names == ["recent-0.25", "recent-0.25-drop", "recent-0-text", "recent-0.25-text"]
    assert "value of keeping" in output
    assert "### Value of keeping" in (tmp_path / "qa.md").read_text()

    code, output = invoke("methods")
    assert code == 0, output
    for method in METHODS:
        assert f" {method.kind} " in output
    for retrieval in RETRIEVALS:
        assert f" {retrieval} " in output


def test_passages_of_a_pool_fill_the_window_and_what_does_not_fit_is_cut(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.jsonl"
    texts = [f"{text} It is harbour number {i}." for i in range(10) for text in TEXT]
    pool.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code, output = invoke(
        *("qa", questions, "--model", tiny_folder, "--out", tmp_path, "--items", 2),
        *("--pool", pool, "--retrieval", "strong", "--no-plots"),
        *("--passages", 2, "--passages", 20, "--policy", "recent", "--expanded", 0.1),
    )
    assert code == 0, output
    few, many = json.loads((tmp_path / "qa.json").read_text())["tables"]
    assert {row["cut"] for row in few["rows"]} == {0}
    cut = {row["method"]: row["cut"] for row in many["rows"]}
    assert cut["full"] == 2
    assert cut["compressed"] == cut["recent-0.1-drop"] == 0
    (full,) = (row for row in many["rows"] if row["method"] == "full")
    assert full["positions"] <= 512 < full["context_tokens"]
    text = (tmp_path / "qa.md").read_text()
    assert "window: full context: 2" in text
    assert "cut" in output


def test_the_passage_that_answers_is_placed(
    tiny_folder: Path, questions: Path, tmp_path: Path
) -> None:
    code, output = invoke(
        *("qa", questions, "--model", tiny_folder, "--out", tmp_path, "--items", 2),
        *("--gold", "start", "--gold", "end", "--passages", 2, "--passages", 3),
        *("--method", "full", "--method", "compressed"),
    )
    assert code == 0, output
    assert "answer at the end" in output
    tables = json.loads((tmp_path / "qa.json").read_text())["tables"]
    assert {(table["passages"], table["place"]) for table in tables} == {
        (count, place) for count in (2, 3) for place in ("start", "end")
    }
    assert (tmp_path / "f1-passages-harbour.valid-given-end.png").is_file()
    section = (tmp_path / "qa.md").read_text().split("## F1 by place")[1]
    assert "| context | passages | start | end |" in section
    assert len(re.findall(r"^\| (?:full context|p=0) \| [23] \|", section, re.MULTILINE)) == 4


def test_a_missing_matplotlib_is_told_before_the_work(
    tiny_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ("qa", questions, "--model", tiny_folder, "--out", tmp_path, "--items", 2)
    few = ("--policy", "random", "--expanded", 0.25, "--passages", 1)
    code, output = invoke(*arguments, *few)
    assert code == 1
    assert "refrag-components[eval]" in output
    assert not list(tmp_path.iterdir())
    code, output = invoke(*arguments, *few, "--no-plots")
    assert code == 0, output
    assert (tmp_path / "qa.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "clairvoyance"), "unknown selection"),
        (("--method", "clairvoyance"), f"choose from {METHODS[0].kind}, {METHODS[1].kind}"),
        (("--expanded", "1.5"), "from 0 to 1"),
        (("--retrieval", "psychic"), "given, strong, weak"),
        (("--passages", "0"), "got 0"),
        (("--pool", "nowhere.jsonl"), "cannot read passages"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(
    questions: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, output = invoke(
        "qa", questions, "--model", "no-such-model", "--out", tmp_path, *arguments
    )
    assert code == 1
    assert message in output


def test_an_empty_folder_cannot_be_drawn(tmp_path: Path) -> None:
    code, output = invoke("plot", tmp_path)
    assert code == 1
    assert "run `refrag eval` first" in output
    (tmp_path / "qa.json").write_text("{}")
    code, output = invoke("plot", tmp_path)
    assert code == 1
    assert "is damaged" in output
