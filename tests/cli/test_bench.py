from __future__ import annotations

import json
from pathlib import Path

import pytest

from refrag_components.exceptions import BudgetError
from refrag_components.generation.cost_model import load_costs
from refrag_components.modeling import RefragModel
from tests.cli.conftest import Run

QUICK = ("--repeats", "1", "--new-tokens", "1", "--passage-tokens", "32", "--device", "cpu")


def test_a_checkpoint_is_measured_and_drawn(
    refrag: Run, layered_folder: Path, tmp_path: Path
) -> None:
    grid = (
        "--context",
        "64",
        "--chunk-size",
        "4",
        "--chunk-size",
        "8",
        "--expanded",
        "0",
        "--cached",
    )
    result = refrag("bench", "latency", "--out", tmp_path, "--model", layered_folder, *grid, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "1/3 64 tokens as text: first token after" in result.stderr
    content = json.loads((tmp_path / "latency.json").read_text())
    assert [row["k"] for row in content["rows"]] == [0, 4, 8]
    assert content["settings"]["model"] == str(layered_folder)
    assert (tmp_path / "latency.md").read_text().startswith("# Latency")
    assert (tmp_path / "first-token.png").is_file()


def test_table_and_figures_are_made_again_without_the_model(
    refrag: Run, layered_folder: Path, tmp_path: Path
) -> None:
    grid = ("--context", "64", "--chunk-size", "4", "--expanded", "0", "--cached", "--no-plots")
    refrag("bench", "latency", "--out", tmp_path, "--model", layered_folder, *grid, *QUICK)
    (tmp_path / "latency.md").unlink()
    result = refrag("bench", "plot", tmp_path)
    assert result.exit_code == 0
    names = [Path(line).name for line in result.stdout.splitlines()]
    assert names == ["latency.md", "first-token.png", "per-token.png"]
    assert all((tmp_path / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shape", "llama-9"), "choose one of llama-2-7b"),
        (("--dtype", "float7"), "'float7' is not a floating-point type"),
        (("--dtype", "int64"), "'int64' is not a floating-point type"),
        (("--device", "toaster"), "toaster"),
        (("--rest", "keep"), "'keep' is not compress or drop"),
        (("--policy", "luck"), "unknown policy 'luck'"),
    ],
)
def test_mistakes_cost_no_measurement(
    refrag: Run, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    result = refrag("bench", "latency", "--out", tmp_path / "out", *options)
    assert result.exit_code != 0
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_results(refrag: Run, tmp_path: Path) -> None:
    result = refrag("bench", "plot", tmp_path)
    assert result.exit_code == 1
    assert "run `refrag bench latency` first" in result.stderr


def test_a_machine_is_calibrated_for_a_time_as_the_budget(
    refrag: Run, layered_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFRAG_HOME", str(tmp_path))
    model = RefragModel.from_pretrained(layered_folder, device="cpu")
    with pytest.raises(BudgetError, match="refrag bench calibrate"):
        load_costs(model)
    result = refrag(
        "bench", "calibrate", "--model", layered_folder, "--device", "cpu", "--repeats", "1"
    )
    assert result.exit_code == 0, result.stderr
    assert "64 positions:" in result.stderr
    (line,) = result.stdout.splitlines()
    assert Path(line).is_relative_to(tmp_path)
    assert load_costs(model).positions[-1] == model.window - 1
    Path(line).write_text("{")
    with pytest.raises(BudgetError, match=r"cannot be read.*again"):
        load_costs(model)
