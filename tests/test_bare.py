"""What works with the bare wheel; in `make test-bare` no extra is installed."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

import refrag_components
from refrag_components.exceptions import MissingExtraError

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
EXTRAS = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MODULES = [
    found.name
    for found in pkgutil.walk_packages(refrag_components.__path__, "refrag_components.")
    if not found.name.endswith("__main__")
]
#: Modules that are of no use without an extra: databases without that of the same name.
OF_AN_EXTRA = {
    f"refrag_components.{room}.{extra}": extra for room in ("stores", "records") for extra in EXTRAS
} | {f"refrag_components.serving.{module}": "serve" for module in ("app", "metrics", "streams")}
OF_AN_EXTRA["refrag_components.engines.vllm_llama"] = "vllm"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported_or_names_its_extra(name: str) -> None:
    try:
        importlib.import_module(name)
    except MissingExtraError as error:
        assert name in OF_AN_EXTRA
        assert f"[{OF_AN_EXTRA[name]}]" in str(error)
