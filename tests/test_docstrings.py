"""The examples in the docstrings of the names that are used most, run as they stand."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import Any

import pytest

from langchain_refrag import (
    ChatRefrag,
    RefragCollections,
    RefragExampleSelector,
    RefragRetriever,
)
from llama_index.llms.refrag import RefragExamples, RefragLLM
from llama_index.retrievers import refrag as llama_index_retrievers
from refrag_components.index import RefragIndex
from refrag_components.modeling import RefragModel
from refrag_components.stores import SQLiteStore


@pytest.mark.parametrize(
    "public",
    [
        ChatRefrag,
        RefragCollections,
        RefragExampleSelector,
        RefragExamples,
        RefragIndex,
        RefragLLM,
        RefragRetriever,
        SQLiteStore,
        llama_index_retrievers.RefragCollections,
    ],
)
def test_the_example_does_what_it_says(
    public: Any, tiny_folder: Path, tiny_model: RefragModel, tmp_path: Path
) -> None:
    names = {
        **vars(sys.modules[public.__module__]),
        "checkpoint": str(tiny_folder),
        "folder": tmp_path / "new",
        "model": tiny_model,
    }
    (example,) = doctest.DocTestFinder(recurse=False).find(public, globs=names)
    assert example.examples
    doctest.DebugRunner().run(example)
