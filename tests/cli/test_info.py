from __future__ import annotations

import shutil
from pathlib import Path

import torch

from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import POLICY_FILE, PolicyNetwork, save_networks
from tests.cli.conftest import Run


def facts(output: str) -> dict[str, str]:
    lines = [line.split("  ", 1) for line in output.splitlines()]
    return {name.strip(): value.strip() for name, value in lines}


def test_facts_about_an_index(
    refrag: Run, index: Path, tiny_folder: Path, tiny_model: RefragModel
) -> None:
    result = refrag("info", index)
    assert result.exit_code == 0
    shown = facts(result.stdout)
    assert shown["documents"] == shown["passages"] == "2"
    assert int(shown["chunks"]) < int(shown["tokens"])
    assert shown["model"] == str(tiny_folder)
    assert shown["fingerprint"] == tiny_model.fingerprint
    assert shown["size"].endswith(" kB")


def test_facts_about_a_model(refrag: Run, tiny_folder: Path, tiny_model: RefragModel) -> None:
    result = refrag("info", tiny_folder)
    assert result.exit_code == 0
    shown = facts(result.stdout)
    assert shown["fingerprint"] == tiny_model.fingerprint
    assert shown["chunk size"] == "4"
    assert shown["window"] == "512 positions"
    assert shown["trained policies"] == "none"


def test_a_model_says_which_trained_policies_it_carries(
    refrag: Run, tiny_folder: Path, tiny_model: RefragModel, tmp_path: Path
) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(tiny_folder, folder)
    network = PolicyNetwork(tiny_model.encoder.width, torch.ones(8), sees_question=True)
    save_networks({"learned-query": network}, folder / POLICY_FILE)
    shown = facts(refrag("info", folder).stdout)
    assert shown["trained policies"] == "learned-query"


def test_an_unknown_name_is_told(refrag: Run) -> None:
    result = refrag("info", "no-such-model")
    assert result.exit_code == 1
    assert "no-such-model is neither an index nor a model" in result.stderr


def test_a_folder_or_file_of_something_else_is_told(refrag: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in (tmp_path, tmp_path / "file"):
        result = refrag("info", name)
        assert result.exit_code == 1
        assert f"{name} is neither an index nor a model" in result.stderr
