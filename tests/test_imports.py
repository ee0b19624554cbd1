from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import refrag_components
from tests.requirements import CLIENTS, CORE, packages

PREFIX = "refrag_components."
# A model of vLLM's, which has an environment of its own: test_vllm_for_real.py.
ELSEWHERE = {"refrag_components.engines.vllm_llama"}
MODULES = sorted(
    ["refrag_components"]
    + [
        found.name
        for found in pkgutil.walk_packages(refrag_components.__path__, PREFIX)
        if found.name not in ELSEWHERE
    ]
)


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_core_imports_no_framework() -> None:
    code = f"""
import importlib, sys
for name in {MODULES}:
    importlib.import_module(name)
print([name for name in sys.modules if name.startswith(("langchain", "llama_index"))])
"""
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("module", ["refrag_components", "refrag_components.cli"])
def test_light_modules_load_no_heavy_library(module: str) -> None:
    code = f"""
import sys, {module}
print([name for name in ("faiss", "peft", "torch", "transformers") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_training_needs_nothing_that_only_indexing_needs() -> None:
    """A rented machine that has PyTorch, transformers and PEFT can train."""
    machine = {"filelock", "httpx", "huggingface_hub", "jinja2", "numpy", "peft", "safetensors"}
    there = machine | {"pydantic", "rich", "tokenizers", "torch", "transformers", "typer"}
    code = f"""
import sys
for name in {["zstandard", *packages({*CORE} - there)]}:
    sys.modules[name] = None  # importing it fails
import refrag_components.cli
import refrag_components.corpus.prepare_questions
import refrag_components.training.stages
print("imported")
"""
    assert run_python(code).strip() == "imported"


def test_stores_load_no_database_client() -> None:
    clients = ["pyarrow", *packages(own for extra in CLIENTS.values() for own in extra)]
    code = f"""
import sys, refrag_components.stores, refrag_components.index
print([name for name in {clients} if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_declared_and_exist(name: str) -> None:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", []):
        assert getattr(module, public) is not None
    defines_names = any(
        getattr(value, "__module__", None) == name and not attribute.startswith("_")
        for attribute, value in vars(module).items()
    )
    assert hasattr(module, "__all__") or not defines_names
