"""The tiny checkpoint with random policies in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.modeling import RefragModel
from refrag_components.modeling.policy_network import NETWORKS
from tests.modeling.networks import network


@pytest.fixture(scope="session")
def trained_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies") / "trained"
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    for name in NETWORKS:
        model.policies[name] = network(name)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(trained_folder: Path) -> RefragModel:
    """Treat it as read-only."""
    return RefragModel.from_pretrained(trained_folder, device="cpu")
