"""Usage by another model's tokens, where its file is at hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.prompts.parts import PassagePart, TextPart
from refrag_components.serving import usage
from tests.tiny import TEXT


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken, "get_encoding", None)
    assert usage.o200k_counter() is None


def test_both_are_counted(
    tmp_path: Path, generator: RefragGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    (tmp_path / hashlib.sha1(usage._SOURCE.encode()).hexdigest()).touch()
    words = SimpleNamespace(encode_ordinary=str.split)
    monkeypatch.setattr(tiktoken, "get_encoding", {"o200k_base": words}.get)
    parts = [TextPart("Read this:\n"), PassagePart(TEXT[0])]
    report = generator.prepare(Request(parts, "What?")).report
    used = usage.usage(report, parts, "two words", usage.o200k_counter())
    assert used["prompt_tokens"] == report.positions
    n_words = 2 + len(TEXT[0].split())
    assert used["o200k_base"] == {
        "prompt_tokens": n_words,
        "completion_tokens": 2,
        "total_tokens": n_words + 2,
    }
    assert "o200k_base" not in usage.usage(report, parts, "two words", None)
