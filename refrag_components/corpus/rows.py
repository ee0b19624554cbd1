"""Rows of text, passages and what is to be predicted, built into one batch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refrag_components.corpus.batch import Batch, PassageGroup
from refrag_components.corpus.grouping import group_by_length

__all__ = ["Row", "ShownPassage", "build_batch", "run_tokens"]

_RUN = 32  # tokens that expand together, about
_ALIGNED = 8  # positions; matrices of other heights miss the fast kernels of a GPU


def run_tokens(rungs: Sequence[int]) -> int:
    """Tokens that expand together in training: 32, or the next number that all rungs divide."""
    unit = math.lcm(*rungs)
    return -(-_RUN // unit) * unit


@dataclass(frozen=True, eq=False)
class ShownPassage:
    """A passage as a row shows it.

    Attributes:
        token_ids: Decoder token ids, shape (n,).
        expanded: True for tokens that enter as such, shape (n,), bool; the same for all tokens
            under a chunk embedding.
        rung: Tokens per chunk embedding; 0 drops what is not expanded.
        key: Passages of a batch with the same key are encoded once; None is encoded by itself.
    """

    token_ids: np.ndarray
    expanded: np.ndarray
    rung: int
    key: Hashable = None

    @property
    def encoded(self) -> bool:
        """Whether anything of it is a chunk embedding."""
        return self.rung > 0 and not bool(self.expanded.all())

    @property
    def has_position(self) -> np.ndarray:
        """True for tokens that have a position: expanded ones and the first under each chunk."""
        if not self.rung:
            return self.expanded
        found: np.ndarray = self.expanded | (np.arange(len(self.expanded)) % self.rung == 0)
        return found


@dataclass(frozen=True, eq=False)
class Row:
    """What the decoder reads and is to predict.

    Attributes:
        parts: Text (token ids, shape (n,)) and passages in order; text comes first.
        tail: Token ids after them, shape (m,).
        counted: True for the tokens of the tail whose loss counts, shape (m,), bool.
        imitated: How many of the tail's first tokens a teacher reads as well. Its predictions of
            those that count are compared, and of the expanded tokens of passages; None for no
            teacher.
        every: Of the expanded tokens only every n-th is compared; 0 for none.
        read: Token ids that the teacher reads before the tail in place of the parts, shape (r,);
            None for the parts as text. Expanded tokens are not compared then.
    """

    parts: Sequence[np.ndarray | ShownPassage]
    tail: np.ndarray
    counted: np.ndarray
    imitated: int | None = None
    every: int = 1
    read: np.ndarray | None = None

    @property
    def positions(self) -> int:
        """Decoder positions that the row takes."""
        context = (
            p.has_position.sum() if isinstance(p, ShownPassage) else len(p) for p in self.parts
        )
        return int(sum(context)) + len(self.tail) - 1

    @property
    def encoded_tokens(self) -> int:
        """Tokens that the encoder reads for the row."""
        passages = [part for part in self.parts if isinstance(part, ShownPassage)]
        return sum(len(passage.token_ids) for passage in passages if passage.encoded)


def build_batch(
    rows: Sequence[Row],
    *,
    chunk_size: int,
    rungs: Sequence[int],
    weight: float = 1.0,
    name: str = "",
) -> Batch:
    """Builds a batch.

    Args:
        rows: At least one; either all or none have a teacher.
        chunk_size: Tokens per chunk (k).
        rungs: All rungs of the checkpoint, ascending multiples of k.
        weight: Of the batch in the loss of its step.
        name: Kind of the batch, for the training log.
    """
    table = _Table(rows, rungs)
    laid_out = [_lay_out(row, table) for row in rows]
    width = max(len(row.token_ids) for row in laid_out)
    width = -(-width // _ALIGNED) * _ALIGNED
    labels = [row.tail[row.counted] for row in rows]
    label_positions = [
        i * width + len(made.token_ids) - len(row.tail) + np.flatnonzero(row.counted)
        for i, (made, row) in enumerate(zip(laid_out, rows, strict=True))
    ]
    label_index = np.concatenate(label_positions)
    first_column = int((label_index % width).min()) if len(label_index) else width
    tensors: dict[str, Any] = {
        "token_ids": _padded([row.token_ids for row in laid_out], width, 0),
        "chunk_index": _padded([row.chunk_index for row in laid_out], width, -1),
        "label_index": torch.from_numpy(label_index),
        "labels": torch.from_numpy(np.concatenate(labels).astype(np.int64)),
    }
    if rows[0].imitated is not None:
        tensors |= _to_compare(laid_out, width)
    return Batch(
        groups=table.groups,
        chunk_size=chunk_size,
        rungs=table.rungs,
        predicted=width - first_column,
        weight=weight,
        name=name,
        **tensors,
    )


@dataclass(frozen=True, eq=False)
class _LaidOut:
    """Arrays of one row; ``student`` and ``teacher`` are positions within it that are compared."""

    token_ids: np.ndarray
    chunk_index: np.ndarray
    full_ids: np.ndarray
    student: np.ndarray
    teacher: np.ndarray


def _lay_out(row: Row, table: _Table) -> _LaidOut:
    token_ids, chunk_index, full, expanded = [], [], [], []
    for part in row.parts:
        if not isinstance(part, ShownPassage):
            token_ids.append(part)
            chunk_index.append(np.full(len(part), -1))
            full.append(part)
            expanded.append(np.zeros(len(part), dtype=bool))
            continue
        in_use, by_token = part.has_position, part.expanded
        count = len(in_use)
        chunk = np.arange(count) // part.rung if part.rung else np.zeros(count, np.int64)
        index = np.where(by_token, -1, table.start(part) + chunk)
        token_ids.append(np.where(by_token, part.token_ids, 0)[in_use])
        chunk_index.append(index[in_use])
        full.append(part.token_ids)
        expanded.append(by_token)
    ids = np.concatenate(token_ids).astype(np.int64)
    index = np.concatenate(chunk_index)
    text = np.concatenate(full).astype(np.int64)
    by_token = np.concatenate(expanded)
    # Nothing is predicted from a row's last token.
    rest = row.tail[:-1].astype(np.int64)
    student = teacher = np.zeros(0, dtype=np.int64)
    if row.imitated is not None:
        after = np.flatnonzero(row.counted[: row.imitated])
        text_positions = np.flatnonzero(index == -1)  # text and expanded tokens, in text order
        is_text = ~by_token & ~_inside_passages(row)
        in_full = np.flatnonzero(is_text | by_token)
        in_passage = by_token[in_full]
        picked = slice(None, None, row.every) if row.every else slice(0)
        if row.read is not None:
            text, picked = row.read.astype(np.int64), slice(0)
        student = np.concatenate([len(ids) - 1 + after, text_positions[in_passage][picked]])
        teacher = np.concatenate([len(text) - 1 + after, in_full[in_passage][picked]])
        text = np.concatenate([text, row.tail[: max(row.imitated - 1, 0)]])
    return _LaidOut(
        token_ids=np.concatenate([ids, rest]),
        chunk_index=np.concatenate([index, np.full(len(rest), -1)]),
        full_ids=text,
        student=student,
        teacher=teacher,
    )


def _to_compare(rows: Sequence[_LaidOut], width: int) -> dict[str, Any]:
    """What a teacher reads and what is compared with it; the student's rows have this width."""
    full_ids: list[torch.Tensor] = []
    starts = [0] * len(rows)
    start = 0
    for length, places in group_by_length([len(row.full_ids) for row in rows], _ALIGNED):
        full_ids.append(_padded([rows[i].full_ids for i in places], length, 0))
        for i in places:
            starts[i] = start
            start += length
    student = [i * width + row.student for i, row in enumerate(rows)]
    teacher = [first + row.teacher for first, row in zip(starts, rows, strict=True)]
    return {
        "full_ids": tuple(full_ids),
        "student_index": torch.from_numpy(np.concatenate(student)),
        "teacher_index": torch.from_numpy(np.concatenate(teacher)),
    }


def _inside_passages(row: Row) -> np.ndarray:
    """True for the tokens of passages, of all tokens before the tail."""
    return np.concatenate(
        [
            np.full(len(part.token_ids), True)
            if isinstance(part, ShownPassage)
            else np.full(len(part), False)
            for part in row.parts
        ]
    )


class _Table:
    """Where the chunk embeddings of each passage stand in a batch's table.

    Attributes:
        groups: The passages by length.
        rungs: The rungs that occur.
    """

    def __init__(self, rows: Sequence[Row], rungs: Sequence[int]) -> None:
        encoded = [p for row in rows for p in row.parts if isinstance(p, ShownPassage)]
        encoded = [p for p in encoded if p.encoded]
        self.rungs = tuple(sorted({p.rung for p in encoded}))
        passages = {_key(passage): passage.token_ids for passage in encoded}
        keys, ids = [*passages], [*passages.values()]
        self._starts: dict[tuple[Hashable, int], int] = {}
        groups = []
        start = 0
        for length, places in group_by_length([*map(len, ids)], math.lcm(*rungs)):
            for rung in self.rungs:
                for i in places:
                    self._starts[keys[i], rung] = start
                    start += length // rung
            of_group = [ids[i] for i in places]
            lengths = torch.tensor([*map(len, of_group)])
            used = torch.arange(length) < lengths.unsqueeze(1)
            groups.append(PassageGroup(_padded(of_group, length, 0), used))
        self.groups = tuple(groups)

    def start(self, passage: ShownPassage) -> int:
        """First row of the passage's chunk embeddings on its rung; 0 if it has none."""
        return self._starts[_key(passage), passage.rung] if passage.encoded else 0


def _key(passage: ShownPassage) -> Hashable:
    return id(passage) if passage.key is None else ("key", passage.key)


def _padded(rows: Sequence[np.ndarray], width: int, filling: int) -> torch.Tensor:
    padded = np.full((len(rows), width), filling, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
