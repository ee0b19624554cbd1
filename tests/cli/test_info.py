from __future__ import annotations

from pathlib import Path

from refrag_components.modeling import RefragModel
from tests.cli.conftest import Run


def facts(output: str) -> dict[str, str]:
    lines = [line.split("  ", 1) for line in output.splitlines()]
    return {name.strip(): value.strip() for name, value in lines}


def test_facts_about_an_index(refrag: Run, index: Path, tiny_model: RefragModel) -> None:
    result = refrag("info", index)
    assert result.exit_code == 0
    shown = facts(result.stdout)
    assert shown["documents"] == shown["passages"] == "2"
    assert shown["fingerprint"] == tiny_model.fingerprint
    assert shown["size"].endswith(" kB")


def test_facts_about_a_model(refrag: Run, tiny_folder: Path, tiny_model: RefragModel) -> None:
    result = refrag("info", tiny_folder)
    assert result.exit_code == 0
    shown = facts(result.stdout)
    assert shown["fingerprint"] == tiny_model.fingerprint
    assert shown["chunk size"] == "4"
    assert shown["window"] == "512 positions"


def test_an_unknown_name_is_told(refrag: Run) -> None:
    result = refrag("info", "no-such-model")
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr
