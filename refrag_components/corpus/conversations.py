"""Questions over passages, laid out exactly as at query time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.chunking import ChunkedPassage, Chunker
from refrag_components.corpus.batch import IGNORED, Batch
from refrag_components.corpus.tokenised import open_text
from refrag_components.encoder import EncoderWindow, pad_windows
from refrag_components.exceptions import TrainingError
from refrag_components.prompt import Message, PassagePart, PromptTokenizer, TextPart, render

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["ConversationSpec", "QuestionSet", "lay_out_conversations"]

#: What the model says where the passages hold no answer.
UNANSWERABLE = "The context does not say."

# Prompts in the shapes that RAG frameworks use: system text, user text; {} marks the passages.
_PROMPTS = (
    ("", "Answer the question based only on the following context:\n{}\n\nQuestion: {q}"),
    ("Use the following context to answer the user's question. Be brief.\n\n{}", "{q}"),
    (
        "",
        "Context information is below.\n---------------------\n{}\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\n"
        "Query: {q}\nAnswer: ",
    ),
    ("You are a helpful assistant.", "{}\n\n{q}"),
    ("", "Question: {q}\n\nContext:\n{}\n\nAnswer:"),
)


@dataclass(frozen=True, kw_only=True)
class ConversationSpec:
    """How one batch of questions is laid out.

    Attributes:
        chunk_size: Tokens a chunk (k).
        expanded: Fraction p of each row's chunks that enter as tokens, drawn at random.
        max_passages: Most passages a question; the gold ones and distractors.
        max_tokens: Longest row, as if nothing were compressed; distractors are left out to fit.
    """

    chunk_size: int
    expanded: float
    max_passages: int = 5
    max_tokens: int = 1536


class QuestionSet:
    """Questions with their passages.

    Args:
        records: Objects with ``question``, ``answers`` (empty if there is none) and ``passages``,
            each of these with ``text`` and a true ``gold`` where it answers the question.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self.records = records

    @classmethod
    def load(cls, path: str | Path) -> QuestionSet:
        """Reads one record a line of ``.jsonl`` or ``.jsonl.zst``.

        Raises:
            TrainingError: If the file is missing or a line is no such record.
        """
        try:
            with open_text(Path(path)) as lines:
                records = [json.loads(line) for line in lines]
            complete = all({"question", "answers", "passages"} <= set(r) for r in records)
        except (OSError, TypeError, json.JSONDecodeError) as error:
            msg = f"cannot read questions from {path}: {error}"
            raise TrainingError(msg) from error
        if not records or not complete:
            msg = f'{path}: every line needs "question", "answers" and "passages"'
            raise TrainingError(msg)
        return cls(records)

    def draw(self, count: int, spec: ConversationSpec, rng: np.random.Generator) -> list[_Row]:
        """Draws questions, each with shuffled gold passages and distractors."""
        rows = []
        for i in rng.integers(len(self.records), size=count):
            record = self.records[i]
            gold = [p["text"] for p in record["passages"] if p.get("gold")]
            other = [p["text"] for p in record["passages"] if not p.get("gold")]
            rng.shuffle(other)
            for j in rng.integers(len(self.records), size=spec.max_passages):
                pool = self.records[j]["passages"]
                other.append(pool[int(rng.integers(len(pool)))]["text"])
            passages = gold[: spec.max_passages]
            wanted = int(rng.integers(1, spec.max_passages + 1))
            passages += other[: max(wanted - len(passages), 0)]
            rng.shuffle(passages)
            # Of several right answers the shortest: it answers the question and no more.
            answer = min(record["answers"], key=len, default=UNANSWERABLE)
            rows.append(
                _Row(record["question"], answer, passages, int(rng.integers(len(_PROMPTS))))
            )
        return rows


@dataclass(frozen=True)
class _Row:
    question: str
    answer: str
    passages: list[str]
    prompt: int

    def messages(self) -> list[Message]:
        messages = []
        for role, text in zip(("system", "user"), _PROMPTS[self.prompt], strict=True):
            if not text:
                continue
            before, marker, after = text.partition("{}")
            parts: list[TextPart | PassagePart] = [self._text(before)]
            for i, passage in enumerate(self.passages if marker else []):
                parts += [TextPart("\n\n")] if i else []
                parts.append(PassagePart(passage))
            messages.append(Message(role, (*parts, self._text(after))))
        return messages

    def _text(self, template: str) -> TextPart:
        return TextPart(template.replace("{q}", self.question))


def lay_out_conversations(
    rows: Sequence[_Row], spec: ConversationSpec, model: RefragModel, rng: np.random.Generator
) -> Batch:
    """Tokenises questions and lays them out; the loss counts on the answers alone."""
    chunker = Chunker(model.tokenizer, spec.chunk_size)
    prompts = PromptTokenizer(model.tokenizer)
    windows: list[EncoderWindow] = []
    laid_out = [_lay_out(row, spec, model, chunker, prompts, windows, rng) for row in rows]
    length = max(len(tokens) for tokens, _, _, _ in laid_out) - 1
    token_ids = np.zeros((len(rows), length), dtype=np.int64)
    index = np.full((len(rows), length), -1, dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    chunk_rows: list[np.ndarray] = []
    n_chunks = 0
    for i, (tokens, chunk, answer, chunks) in enumerate(laid_out):
        n = len(tokens) - 1
        token_ids[i, :n] = tokens[:-1]
        index[i, :n] = np.where(chunk[:-1] >= 0, chunk[:-1] + n_chunks, -1)
        labels[i, n - answer : n] = tokens[-answer:]
        chunk_rows += chunks
        n_chunks += len(chunks)
    chunk_tokens = np.zeros((n_chunks, spec.chunk_size), dtype=np.int64)
    used = np.zeros((n_chunks, spec.chunk_size), dtype=bool)
    for i, chunk_ids in enumerate(chunk_rows):
        chunk_tokens[i, : len(chunk_ids)] = chunk_ids
        used[i, : len(chunk_ids)] = True
    predicted = int((labels != IGNORED).any(axis=0).argmax())
    pieces, mask, spans, span_index = pad_windows(windows, model.encoder.pad_id)
    arrays = {
        "token_ids": token_ids,
        "chunk_index": index,
        "chunk_tokens": chunk_tokens,
        "chunk_used": used,
        "pieces": pieces,
        "piece_mask": mask,
        "spans": spans,
        "span_index": span_index,
        "labels": labels[:, predicted:],
    }
    return Batch(**{name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()})


def _lay_out(
    row: _Row,
    spec: ConversationSpec,
    model: RefragModel,
    chunker: Chunker,
    prompts: PromptTokenizer,
    windows: list[EncoderWindow],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int, list[np.ndarray]]:
    """Tokens, chunk at each position, answer length and chunks of one row."""
    tokens: list[np.ndarray] = []
    index: list[np.ndarray] = []
    chunks: list[np.ndarray] = []
    room = spec.max_tokens
    rendered = render(row.messages(), model.tokenizer)
    for is_passage, group in groupby(rendered, key=lambda part: isinstance(part, PassagePart)):
        if not is_passage:
            ids = prompts.encode(list(group))  # type: ignore[arg-type]
            tokens.append(ids)
            index.append(np.full(len(ids), -1))
            continue
        for part in group:
            (passage,) = chunker.chunk([part.text[: 4 * room]])
            if not 0 < len(passage.token_ids) <= room:
                continue
            room -= len(passage.token_ids)
            windows += model.encoder.windows(passage)
            ids, at = _choose(passage, spec, len(chunks), rng)
            tokens.append(ids)
            index.append(at)
            bounds = passage.bounds
            chunks += [passage.token_ids[first : last + 1] for first, last in bounds]
    answer = prompts.encode([TextPart(row.answer)])[:128]
    closing = model.tokenizer.eos_token_id
    tokens += [answer, np.array([closing])]
    index.append(np.full(len(answer) + 1, -1))
    return np.concatenate(tokens), np.concatenate(index), len(answer) + 1, chunks


def _choose(
    passage: ChunkedPassage, spec: ConversationSpec, offset: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and chunk numbers of a passage whose chunks expand with probability p."""
    chunk_of = np.arange(len(passage.token_ids)) // spec.chunk_size
    expanded = (rng.random(passage.n_chunks) < spec.expanded)[chunk_of]
    kept = expanded | (np.arange(len(chunk_of)) % spec.chunk_size == 0)
    ids = np.where(expanded, passage.token_ids, 0)[kept]
    return ids, np.where(expanded, -1, chunk_of + offset)[kept]
