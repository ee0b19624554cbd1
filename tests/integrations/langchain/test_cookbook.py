"""The notebooks run from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tests.integrations.notebooks import MODEL, Outputs, check_closing, outputs, run

COOKBOOKS = Path(__file__).parents[3] / "cookbooks"
Check = Callable[["Outputs"], None]


def check_swap(shown: Outputs) -> None:
    assert "4 passages were known, 0 were encoded" in shown.printed
    assert "4 passages came from the store" in shown.printed
    check_closing(shown)


def check_database(shown: Outputs) -> None:
    assert "notes: 6 points\nnotes_chunk_vectors: 6 points\n" in shown.printed
    assert "3 passages came from Qdrant, 0 were encoded" in shown.printed
    assert "6 of 6 for their owner\n0 of 6 for another tenant\n" in shown.printed
    assert "SQLiteStore True\nQdrantStore True\n" in shown.printed
    check_closing(shown)


def check_records(shown: Outputs) -> None:
    assert "6 points with chunks, passage, tokens\n" in shown.printed
    assert "3 passages brought their vectors, 0 were encoded" in shown.printed
    assert "in a trace: False\n" in shown.printed
    assert "3 nodes brought their vectors, 0 were encoded\n" in shown.printed
    assert "chunk vectors; in what is stored of a node: False\n" in shown.printed
    assert len(re.findall(r"paragraphs \[\d, \d, \d\]\n", shown.printed)) == 2
    assert "6 of 6 for their owner\n0 of 6 for another tenant\n" in shown.printed
    kept = re.findall(r"([\d,]+) bytes per record  same: True\n", shown.printed)
    none, half, bits = (int(size.replace(",", "")) for size in kept)
    assert none <= bits < half
    check_closing(shown)


def check_agents(shown: Outputs) -> None:
    assert "use a checkpoint whose decoder calls tools" in shown.printed
    by_hand = re.search(r"^(\d+) tokens took (\d+) positions$", shown.printed, flags=re.MULTILINE)
    assert by_hand is not None
    assert int(by_hand[1]) > int(by_hand[2])
    asked = re.findall(r"^ *(\d+) +(\d+) +(\d+) +(\d+)  ", shown.printed, flags=re.MULTILINE)
    assert len(asked) == 3
    for tokens, positions, known, encoded in asked:
        assert int(tokens) > int(positions)
        assert int(known) + int(encoded) == 3
    turns = re.findall(r"^ +([1-4]) +(\d+)  .{25} +(\d+)  ", shown.printed, flags=re.MULTILINE)
    assert [turn for turn, _, _ in turns] == ["1", "2", "3", "4"]
    assert turns[0][1] == turns[0][2]
    assert all(int(plain) > int(compressed) for _, plain, compressed in turns[1:])
    check_closing(shown)


def check_many_shot(shown: Outputs) -> None:
    first, second = re.findall(
        r"^(\d+) tokens of examples took (\d+) positions; (\d+) were known, (\d+) were encoded$",
        shown.printed,
        flags=re.MULTILINE,
    )
    assert first[3] == second[2] == "200"
    assert first[2] == second[3] == "0"
    assert int(first[0]) > int(first[1])
    counts = re.findall(r"^ +(\d+) +(\d+) +(\d+) +\d of 4$", shown.printed, flags=re.MULTILINE)
    assert [int(count) for count, _, _ in counts] == [4, 20, 100, 200]
    assert all(int(tokens) > 2 * int(positions) for _, tokens, positions in counts)
    turn = r"^ +([1-5]) +(\d+)  .{25} +(\d+) +(\d+)  "
    turns = [list(map(int, row)) for row in re.findall(turn, shown.printed, flags=re.MULTILINE)]
    assert [number for number, *_ in turns] == [1, 2, 3, 4, 5]
    for _, plain, compressed, history in turns[1:]:
        assert history <= 64
        assert compressed < plain
    assert turns[-1][2] - turns[1][2] <= turns[-1][1] - turns[1][1]
    similar, diverse = (part.splitlines()[1:4] for part in shown.printed.split("diversity ")[1:])
    assert len({*similar}) == len({*diverse}) == 3
    check_closing(shown)


def check_any_model(shown: Outputs) -> None:
    rows = re.findall(r"^ *([01]\.\d+|auto) +(\d+)  ", shown.printed, flags=re.MULTILINE)
    assert [budget for budget, _ in rows] == ["1.0", "0.5", "0.25", "0.1", "auto"] * 2
    for table in (rows[:5], rows[5:]):
        tokens = [int(tokens) for _, tokens in table]
        assert tokens[:4] == sorted(tokens[:4], reverse=True)
        assert tokens[1] < tokens[0] * 0.75
        assert tokens[4] < tokens[0]
    assert "| month | day | fare |\n|---|---|---|\n" in shown.printed
    assert "1926" in shown.printed.split("| month |")[1]  # what is protected
    agents = re.findall(r"^(?:whole results|excerpts) +(\d+)  ", shown.printed, flags=re.MULTILINE)
    assert int(agents[1]) < int(agents[0]) / 2
    assert re.search(r"^- .*goat", shown.printed, flags=re.MULTILINE)
    drawn = BeautifulSoup(shown.picture, "lxml")
    assert len(drawn.select("article")) == 4
    read, whole = (
        sum(len(each.text) for each in drawn.select(tag)) for tag in ("article mark", "article")
    )
    assert 0 < read < whole / 2


ALL = pytest.mark.parametrize(
    ("name", "check"),
    [
        ("01_swap_into_langchain.ipynb", check_swap),
        ("03_your_vector_database.ipynb", check_database),
        ("04_agents_and_multi_turn.ipynb", check_agents),
        ("05_policy_for_any_model.ipynb", check_any_model),
        ("06_one_record_per_object.ipynb", check_records),
        ("07_many_shot_and_conversations.ipynb", check_many_shot),
    ],
)


@pytest.fixture
def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(COOKBOOKS / name, as_version=4)


@ALL
def test_runs_with_a_tiny_model(
    notebook: nbformat.NotebookNode, check: Check, roomy_folder: Path
) -> None:
    for cell in notebook.cells:
        cell.source = cell.source.replace(MODEL, str(roomy_folder / "tiny"))
    check(run(notebook))


@ALL
def test_outputs_are_kept(notebook: nbformat.NotebookNode, check: Check) -> None:
    check(outputs(notebook))


@ALL
@pytest.mark.checkpoint
@pytest.mark.timeout(900)
def test_runs_with_the_bundled_model(notebook: nbformat.NotebookNode, check: Check) -> None:
    check(run(notebook))
