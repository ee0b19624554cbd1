"""Every name of the library that the documentation mentions is there, under that name."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from pkgutil import iter_modules, resolve_name

import pytest

import refrag_components

ROOT = Path(__file__).parents[1]
#: The changelog tells of names that are gone.
PAGES = sorted(
    [*(page for page in ROOT.glob("*.md") if page.stem != "CHANGELOG"), *ROOT.glob("docs/*.md")]
)
#: Packages; a room of the library may be written without its package.
OURS = ("refrag_components", "langchain_refrag", "llama_index", "refrag_demo")
ROOMS = [module.name for module in iter_modules(refrag_components.__path__)]
DOTTED = re.compile(
    rf"`((?:{'|'.join([*OURS, *ROOMS])})(?!\.(?:md|py|toml)`)(?:\.[A-Za-z_]\w*)+)(?:\([^`]*\))?`"
)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def imported(code: str) -> list[tuple[str, str]]:
    """Modules of ours that code imports, each with one name from it; "" for the module alone."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            found += [(node.module or "", alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.startswith(OURS)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_the_text_are_there(page: Path) -> None:
    names = set(DOTTED.findall(page.read_text(encoding="utf-8")))
    missing = []
    for name in sorted(names):
        whole = name if name.startswith(OURS) else f"refrag_components.{name}"
        try:
            resolve_name(whole)
        except (AttributeError, ImportError):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_examples_import_is_there(page: Path) -> None:
    for code in BLOCK.findall(page.read_text(encoding="utf-8")):
        for module, name in imported(code):
            assert not name or hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_names_and_examples_are_found() -> None:
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert sum(len(DOTTED.findall(page)) for page in pages) > 20
    assert sum(len(imported(code)) for page in pages for code in BLOCK.findall(page)) > 8
