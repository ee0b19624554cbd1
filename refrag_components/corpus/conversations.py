"""Questions over passages, laid out exactly as at query time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.corpus.batch import IGNORED, Batch
from refrag_components.corpus.encoder_input import encoder_input
from refrag_components.corpus.questions import Conversation, ConversationSpec, QuestionSet

if TYPE_CHECKING:
    from refrag_components.modeling.chunk_encoder import ChunkEncoder

__all__ = ["UNANSWERABLE", "lay_out_conversations"]

#: What the model says where the passages hold no answer.
UNANSWERABLE = "The context does not say."


def lay_out_conversations(
    rows: Sequence[Conversation],
    spec: ConversationSpec,
    questions: QuestionSet,
    *,
    encoder: ChunkEncoder,
    rng: np.random.Generator,
    with_full_text: bool = False,
) -> Batch:
    """Lays conversations out; the loss counts on the answers alone.

    Args:
        rows: Drawn from ``questions``.
        spec: What they look like.
        questions: Hold the passages.
        encoder: Gives the encoder's special tokens and window.
        rng: Draws the expanded chunks.
        with_full_text: Whether ``full_ids`` are wanted, the rows in full, but of the passages the
            supporting ones alone: who has not seen the others cannot be drawn away by them. At
            p = 1 there are none.
    """
    k = spec.chunk_size
    numbers = np.concatenate([shown for row in rows for shown in row.passages])
    latest = np.concatenate(
        [
            np.full(len(shown), turn == len(row.passages) - 1)
            for row in rows
            for turn, shown in enumerate(row.passages)
        ]
    )
    needed = np.concatenate([np.isin(shown, row.needed) for row in rows for shown in row.passages])
    lengths = np.minimum(questions.lengths[numbers], spec.max_tokens)
    counts = -(-lengths // k)
    ends = np.cumsum(lengths)
    within = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    place = np.repeat(questions.starts[numbers], lengths) + within
    tokens = questions.corpus.tokens[place].astype(np.int64)
    begins = within % k == 0
    chunk_of = np.cumsum(begins) - 1
    expanded = _draw_runs(counts, needed, spec, rng)
    if spec.expanded < 1:
        expanded &= np.repeat(latest, counts)
    by_token = expanded[chunk_of]
    kept = by_token | begins
    kept_ends = np.append(0, np.cumsum(kept))[ends]
    shown = (
        np.where(by_token, tokens, 0)[kept],
        np.where(by_token, -1, chunk_of)[kept],
    )
    token_ids = _rows(rows, np.split(shown[0], kept_ends[:-1]), questions.separator)
    index = _rows(rows, np.split(shown[1], kept_ends[:-1]), questions.separator, _no_chunk)
    answers = [len(row.answer) for row in rows]
    labels = _labels(token_ids, answers)

    # Nothing is encoded where every chunk is expanded.
    encoded = spec.expanded < 1
    chunk_tokens = np.zeros((int(counts.sum()) if encoded else 0, k), dtype=np.int64)
    used = np.zeros(chunk_tokens.shape, dtype=bool)
    last = np.flatnonzero(np.append(begins[1:], True)) if len(begins) else np.zeros(0, int)
    bounds = np.stack([place[begins], place[last]], axis=1)[: len(chunk_tokens)]
    if encoded:
        used = np.arange(k) < (bounds[:, 1] - bounds[:, 0] + 1)[:, None]
        chunk_tokens[used] = tokens
    predicted = int((labels != IGNORED).any(axis=0).argmax())
    arrays = {
        "token_ids": _padded(token_ids, 0)[:, :-1],
        "chunk_index": _padded(index, -1)[:, :-1],
        "chunk_tokens": chunk_tokens,
        "chunk_used": used,
        "labels": labels[:, predicted:],
        "answer_index": np.flatnonzero(labels[:, predicted:] != IGNORED),
    }
    for_encoder = encoder_input(
        questions.corpus, bounds, counts if encoded else counts[:0], encoder
    )
    if with_full_text and encoded:
        alone = [_supported(row) for row in rows]
        supporting = np.concatenate([mask for row in rows for mask in row.supporting])
        kept_tokens = list(compress(np.split(tokens, ends[:-1]), supporting))
        full_ids = _rows(alone, kept_tokens, questions.separator)
        arrays["full_ids"] = _padded(full_ids, 0)[:, :-1]
        arrays["full_index"] = np.flatnonzero(_labels(full_ids, answers) != IGNORED)
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
    }
    return Batch(**tensors, **for_encoder)


def _supported(row: Conversation) -> Conversation:
    passages = [shown[mask] for shown, mask in zip(row.passages, row.supporting, strict=True)]
    return replace(row, passages=passages)


def _draw_runs(
    counts: np.ndarray, needed: np.ndarray, spec: ConversationSpec, rng: np.random.Generator
) -> np.ndarray:
    """Which chunks of all passages expand, passages of so many chunks cut into runs."""
    place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    cut = rng.integers(spec.run, size=len(counts)) * (counts > spec.run)
    run = (place + np.repeat(cut, counts)) // spec.run
    begins = (place == 0) | (np.diff(run, prepend=0) != 0)
    drawn = rng.random(int(begins.sum())) < np.repeat(spec.shares(needed), counts)[begins]
    expanded: np.ndarray = drawn[np.cumsum(begins) - 1]
    return expanded


def _rows(
    rows: Sequence[Conversation],
    passages: list[np.ndarray],
    separator: np.ndarray,
    of_text: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> list[np.ndarray]:
    """Puts each row together from its texts, its passages and what separates them."""
    between = of_text(separator)
    following = iter(passages)
    whole = []
    for row in rows:
        parts = [of_text(row.texts[0])]
        for shown, text in zip(row.passages, row.texts[1:], strict=True):
            for i in range(len(shown)):
                parts += [between] if i else []
                parts.append(next(following))
            parts.append(of_text(text))
        whole.append(np.concatenate([*parts, of_text(row.answer)]).astype(np.int64))
    return whole


def _no_chunk(text: np.ndarray) -> np.ndarray:
    return np.full(len(text), -1)


def _labels(token_ids: Sequence[np.ndarray], answers: Sequence[int]) -> np.ndarray:
    """What each position but a row's last predicts, counting the answers alone."""
    labels = [
        np.where(np.arange(1, len(row)) >= len(row) - answer, row[1:], IGNORED)
        for row, answer in zip(token_ids, answers, strict=True)
    ]
    return _padded(labels, IGNORED)


def _padded(rows: Sequence[np.ndarray], filling: int) -> np.ndarray:
    width = max(map(len, rows))
    padded = np.full((len(rows), width), filling, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded
