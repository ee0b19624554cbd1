from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MODEL = "refrag-smollm2-135m"


def run_quickstart(model: str) -> dict[str, Any]:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert f'"{MODEL}"' in block
    namespace: dict[str, Any] = {}
    exec(compile(block.replace(MODEL, model), "README.md", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_quickstart_compresses(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_quickstart(tiny_folder.as_posix())
    report = names["answer"].response_metadata["refrag"]
    assert str(report) in capsys.readouterr().out
    assert report["context_tokens"] > report["context_positions"] > 0
    assert report["cache_misses"] == len(names["texts"])
    assert report["warnings"] == []


def test_every_reported_entry_is_described(tiny_folder: Path) -> None:
    report = run_quickstart(tiny_folder.as_posix())["answer"].response_metadata["refrag"]
    rows = re.findall(r"^\| (`.*?) \|", README, flags=re.MULTILINE)
    assert set(report) == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.checkpoint
@pytest.mark.timeout(900)
def test_the_quickstart_answers() -> None:
    answer = run_quickstart(MODEL)["answer"]
    assert answer.content.strip()
    assert answer.response_metadata["refrag"]["rate"] > 1
