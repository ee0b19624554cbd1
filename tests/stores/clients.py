"""The databases' clients, from what the project says of itself."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from refrag_components.stores.opening import _WITH_EXTRA

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: The extras of stores, each named like its store's module, with what they install.
EXTRAS: dict[str, list[str]] = {
    module: PROJECT["project"]["optional-dependencies"][module]
    for module, _ in _WITH_EXTRA.values()
}


def clients(extra: str) -> list[str]:
    """Packages to import that only this extra installs."""
    core = set(map(_name, PROJECT["project"]["dependencies"]))
    wanted = set(map(_name, EXTRAS[extra])) - core
    return [
        package
        for package, distributions in packages_distributions().items()
        if wanted & set(map(_name, distributions))
    ]


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
