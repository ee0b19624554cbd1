"""Where the answer to a question stands: what policies fit first, as it needs no rewards (ours)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from refrag_components.corpus import Conversation, QuestionSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["evidence", "evidence_loss", "token_texts"]

_REACH = 8  # tokens away from the answer where text counts 1/e of what it counts there
_FAR = 64  # tokens; beyond, or where the answer does not stand word for word, all counts alike
_SAID_OF_ALL = ("yes", "no")  # answers that stand nowhere, even if such a word does
_SPACES = str.maketrans("ĠĊ▁", "   ")  # how tokenizers of bytes and of SentencePiece write them


def token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of every token by its id, without case; "" for special tokens."""
    special = set(tokenizer.all_special_ids)
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [
        "" if i in special else (word or "").translate(_SPACES).casefold()
        for i, word in enumerate(words)
    ]


def evidence(row: Conversation, questions: QuestionSet, texts: Sequence[str], k: int) -> np.ndarray:
    """How much each chunk should count for whoever looks for the answer.

    A chunk of a passage that answers counts exp(-d / 8), d its tokens to where the answer stands,
    at most 64; other passages count nothing. Where none answers, the one that was asked about
    counts: who reads it can say so.

    Args:
        row: Drawn from ``questions``.
        questions: Hold the passages.
        texts: From ``token_texts``.
        k: Tokens per chunk.

    Returns:
        (chunks of the row in prompt order,), float32, sum 1; all 0 where no such passage is shown.
    """
    answer = "".join(texts[i] for i in row.answer).strip(" .")
    pattern = None
    if answer and answer not in _SAID_OF_ALL:
        # Letters beyond ASCII are written as bytes here, and so are dashes and curly quotes.
        pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.ASCII)
    parts = [np.zeros(0, dtype=np.float32)]
    for number in np.concatenate(row.passages):
        tokens = questions.passage(number)
        length = len(tokens)
        counts = np.zeros(-(-length // k), dtype=np.float32)
        if number in row.needed:
            distance = _distance([texts[i] for i in tokens], pattern)
            nearest = np.minimum.reduceat(distance, np.arange(0, length, k))
            counts = np.exp(-nearest / _REACH).astype(np.float32)
        parts.append(counts)
    whole = np.concatenate(parts)
    total = whole.sum()
    return whole / total if total else whole


def evidence_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy between the evidence and the first pick, a mean over prompts that have any.

    Args:
        logits: (prompts, chunks).
        wanted: Their ``evidence``, 0 where padded, same shape.
    """
    each = -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1)
    return each.sum() / wanted.sum().clamp(min=1)


def _distance(words: Sequence[str], pattern: re.Pattern[str] | None) -> np.ndarray:
    """Tokens from each token to the nearest match, at most ``_FAR``."""
    place = np.arange(len(words))
    distance = np.full(len(words), _FAR)
    if pattern is not None:
        ends = np.cumsum([len(word) for word in words])
        for found in pattern.finditer("".join(words)):
            first = np.searchsorted(ends, found.start(), side="right")
            last = np.searchsorted(ends, found.end(), side="left")
            away = np.maximum(first - place, place - last).clip(min=0)
            distance = np.minimum(distance, away)
    return distance
