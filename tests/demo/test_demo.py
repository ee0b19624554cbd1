from __future__ import annotations

import io
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from refrag_components.modeling import RefragModel
from refrag_demo import demo
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own cache and less to do."""
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "_LONGEST_TOPIC", 1000)
    monkeypatch.setattr(demo, "_MAX_TOKENS", 4)
    monkeypatch.setattr(demo, "_QUESTIONS", demo._QUESTIONS[:2])


def run(folder: Path) -> list[str]:
    """Runs the demo and returns the lines that a log would hold."""
    log = io.StringIO()
    demo.run_demo(str(folder / "tiny"), Console(file=log, width=100, markup=False))
    return log.getvalue().splitlines()


def rows(lines: list[str], name: str) -> list[str]:
    return [line for line in lines if line.startswith(f" {name}  ")]


def test_every_question_is_answered_on_each_side(roomy_folder: Path) -> None:
    lines = run(roomy_folder)
    for question in demo._QUESTIONS:
        assert any(question.text in line for line in lines)
    assert len(rows(lines, "REFRAG 100%")) == 2
    for name in ("plain", "REFRAG 25%", "REFRAG 10%", "REFRAG 0%"):
        assert len(rows(lines, name)) == 3  # timing is the third
    assert "cookbooks/01_swap_into_langchain.ipynb" in "\n".join(lines[-4:])


def test_the_first_question_finds_its_vectors_in_the_index(roomy_folder: Path) -> None:
    lines = run(roomy_folder)
    assert all(" 4 of 4 " in line for line in rows(lines, "REFRAG 0%")[:2])
    assert " 20 of 20 " in rows(lines, "REFRAG 0%")[2]


def test_what_reads_less_is_shorter(roomy_folder: Path) -> None:
    lines = run(roomy_folder)

    def positions(name: str) -> int:
        numbers = [int(word) for word in rows(lines, name)[0].split() if word.isdigit()]
        return numbers[1]  # after the context tokens

    assert positions("REFRAG 10%") < positions("REFRAG 25%") < positions("REFRAG 100%")
    assert positions("REFRAG 0%") < positions("REFRAG 100%") / 2
    assert positions("plain") == pytest.approx(positions("REFRAG 100%"), rel=0.02)


def test_a_second_run_uses_the_index_of_the_first(roomy_folder: Path) -> None:
    assert any("stored for the next run" in line for line in run(roomy_folder))
    assert any("from an earlier run" in line for line in run(roomy_folder))


def test_a_log_is_plain_and_narrow(roomy_folder: Path) -> None:
    lines = [line for line in run(roomy_folder) if "next run" not in line]  # ends in a path
    assert max(map(cell_len, lines)) <= 100
    assert not any("\x1b" in line for line in lines)


def test_the_plain_side_is_the_untouched_base(tiny_base: tuple[Path, Path]) -> None:
    decoder, encoder = tiny_base
    config = tiny_config(decoder, encoder)
    trained, base = RefragModel.from_base(config), RefragModel.from_base(config)
    torch.nn.init.zeros_(trained.decoder.lm_head.weight)
    plain = demo._plain_generator(trained).model.decoder
    assert torch.equal(plain.lm_head.weight, base.decoder.lm_head.weight)


def test_the_reference_answers_every_question() -> None:
    indexed = [" ".join(text.split()) for text in topics.values() if len(text) <= 5000]
    for question in demo._QUESTIONS:
        assert any(question.reference in text for text in indexed)
