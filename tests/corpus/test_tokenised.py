"""Text is tokenised once, and a folder of it says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from refrag_components.corpus import TokenisedCorpus, prepare_corpus
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT, tiny_decoder_tokenizer


@pytest.fixture
def folder(tiny_model: RefragModel, tmp_path: Path) -> Path:
    prepare_corpus(TEXT, tiny_model.tokenizer, tmp_path / "text")
    return tmp_path / "text"


def test_documents_are_separated(tiny_model: RefragModel, tmp_path: Path) -> None:
    done: list[int] = []
    texts = ["", *TEXT, "spelled out: <|endoftext|>"]
    written = prepare_corpus(texts, tiny_model.tokenizer, tmp_path / "t", progress=done.append)
    corpus = TokenisedCorpus.load(tmp_path / "t")
    assert len(corpus) == written
    assert sum(done) == len(texts)
    ends = np.flatnonzero(corpus.tokens == tiny_model.first_token_id)
    assert len(ends) == len(texts) - 1  # nothing for the empty one, no control token from text
    documents = np.split(corpus.tokens, ends + 1)[:-1]
    decoded = [tiny_model.tokenizer.decode(ids[:-1]) for ids in documents]
    assert decoded == texts[1:]


def test_it_is_read_with_the_tokenizer_that_cut_it(folder: Path, tiny_model: RefragModel) -> None:
    corpus = TokenisedCorpus.load(folder)
    corpus.check(tiny_model.tokenizer)
    other = tiny_decoder_tokenizer()
    other.add_tokens(["harbour"])
    with pytest.raises(TrainingError, match="another decoder's tokenizer; prepare it again"):
        corpus.check(other)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut short", "tokens where .* were written; prepare it again"),
        ("unknown entry", "holds no tokenised text"),
        ("another type", "holds no tokenised text"),
        ("no tokens", "holds no tokenised text"),
        ("earlier release", "prepared by an earlier release; prepare it again"),
    ],
)
def test_what_cannot_be_read_is_refused(folder: Path, damage: str, message: str) -> None:
    meta, tokens = folder / "corpus.json", folder / "tokens.bin"
    if damage == "cut short":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif damage == "unknown entry":
        meta.write_text(meta.read_text().replace("{", '{"pieces": 1,', 1))
    elif damage == "another type":
        meta.write_text(meta.read_text().replace('"bits": 16', '"bits": "16"'))
    elif damage == "no tokens":
        tokens.unlink()
    else:
        np.save(folder / "pieces.npy", np.zeros(3))
        meta.unlink()
    with pytest.raises(TrainingError, match=message):
        TokenisedCorpus.load(folder)


def test_a_folder_is_not_written_over(folder: Path, tiny_model: RefragModel) -> None:
    with pytest.raises(TrainingError, match="exists; remove it"):
        prepare_corpus(TEXT, tiny_model.tokenizer, folder)
    shutil.rmtree(folder)
    with pytest.raises(TrainingError, match="no text to train on"):
        prepare_corpus([""], tiny_model.tokenizer, folder)
    assert not folder.exists()
