"""What the project requires, and the packages that it imports from there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from refrag_components.stores.common.opening import WITH_EXTRA

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: What is always installed, by name.
CORE = [requirement.partition(">=")[0] for requirement in PROJECT["project"]["dependencies"]]
#: The extras of stores, each named like its store's module, with what only they install.
CLIENTS: dict[str, list[str]] = {
    module: [
        requirement
        for requirement in PROJECT["project"]["optional-dependencies"][module]
        if requirement.partition(">=")[0] not in CORE
    ]
    for module in WITH_EXTRA.values()
}


def packages(requirements: Iterable[str]) -> list[str]:
    """Names to import what some requirements install, if they are installed."""
    wanted = set(map(_name, requirements))
    return sorted(
        package
        for package, distributions in packages_distributions().items()
        if wanted & set(map(_name, distributions))
    )


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
