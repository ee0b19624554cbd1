"""What an answer took, in decoder positions and in the tokens of a well-known model."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refrag_components.generation.report import Report
from refrag_components.prompts.parts import RenderedPart

__all__ = ["o200k_counter", "usage"]

_SOURCE = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"


class _Counter:
    """Counts tokens of o200k_base, the encoding of GPT-4o and later."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def __call__(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))


def o200k_counter() -> _Counter | None:
    """Counts o200k_base tokens; None without tiktoken or its file, which is never downloaded here.

    ``python -c "import tiktoken; tiktoken.get_encoding('o200k_base')"`` downloads it once.
    """
    folder = next(
        (os.environ[n] for n in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if n in os.environ),
        os.path.join(tempfile.gettempdir(), "data-gym-cache"),
    )
    if not (Path(folder) / hashlib.sha1(_SOURCE.encode()).hexdigest()).is_file():
        return None
    try:
        import tiktoken
    except ImportError:
        return None
    return _Counter(tiktoken.get_encoding("o200k_base"))


def usage(
    report: Report, parts: Sequence[RenderedPart], answer: str, counter: _Counter | None
) -> dict[str, Any]:
    """What OpenAI's clients call usage.

    Args:
        report: What happened; decoder positions count as prompt tokens.
        parts: The prompt.
        answer: The answer.
        counter: Counts what the same texts take elsewhere; None to leave it out.
    """
    used: dict[str, Any] = _counts(report.positions, report.output_tokens)
    if counter is not None:
        used["o200k_base"] = _counts(counter("".join(p.text for p in parts)), counter(answer))
    return used


def _counts(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
