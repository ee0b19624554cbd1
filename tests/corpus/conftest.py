"""A small corpus, and both kinds of model."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.corpus import TokenisedCorpus, prepare_corpus
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT


@pytest.fixture(scope="session")
def corpus(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> TokenisedCorpus:
    """Short and longer documents."""
    folder: Path = tmp_path_factory.mktemp("corpus") / "prepared"
    prepare_corpus([*TEXT, " ".join(TEXT)] * 3, tiny_model.tokenizer, folder)
    return TokenisedCorpus.load(folder)
