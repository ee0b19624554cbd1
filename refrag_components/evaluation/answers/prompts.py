"""Contexts to prompts, and prompts to decoder rows as each method has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.evaluation.answers.contexts import Context
from refrag_components.evaluation.decoding import Row
from refrag_components.evaluation.methods import Method
from refrag_components.exceptions import EvaluationError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.policies import FractionBudget, PolicyInputs, select
from refrag_components.prompts.parts import Message, PassagePart, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from refrag_components.stores.memory import MemoryStore
from refrag_components.vectors import ChunkVectors, passage_key

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel
    from refrag_components.modeling.encoded_question import EncodedQuestion

__all__ = ["Prompt", "Prompts", "build_prompts", "build_row", "messages"]

# One short instruction for every question; without a context it does not speak of one.
_WITH_CONTEXT = "Use the following context to answer the user's question. Be brief.\n\n"
_WITHOUT_CONTEXT = "Answer the user's question. Be brief."

_ENCODED_AT_ONCE = 512  # passages
_MOST_ANSWER_TOKENS = 64  # longer answers are scored by their beginning


def messages(question: str, passages: Sequence[str]) -> list[Message]:
    """The prompt of a question: instruction and passages, then the question."""
    if not passages:
        system: tuple[TextPart | PassagePart, ...] = (TextPart(_WITHOUT_CONTEXT),)
    else:
        parts: list[TextPart | PassagePart] = [TextPart(_WITH_CONTEXT)]
        for i, passage in enumerate(passages):
            parts += [TextPart("\n\n")] if i else []
            parts.append(PassagePart(passage))
        system = tuple(parts)
    return [Message("system", system), Message("user", (TextPart(question),))]


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompt of one question, uncompressed, and where its chunks are.

    Attributes:
        token_ids: Tokens of the whole prompt, shape (n,), int64.
        chunk_of: Chunk of this prompt that each token belongs to, -1 for text; shape (n,).
        passage_of: Passage of each token; for text the passage after it. Shape (n,).
        between: True for the text between two passages; shape (n,), bool.
        begins: True for the first token of each chunk; shape (n,), bool.
        chunk_rows: Row of each chunk in the table of chunk embeddings; shape (n_chunks,).
        lengths: Tokens of each chunk; shape (n_chunks,).
        bare_ids: Tokens of the prompt without a context.
        answer_ids: Tokens of the answer whose log-perplexity is measured.
        similar: Indices of the passages, the most similar to the question first.
        inputs: What a policy sees.
    """

    token_ids: np.ndarray
    chunk_of: np.ndarray
    passage_of: np.ndarray
    between: np.ndarray
    begins: np.ndarray
    chunk_rows: np.ndarray
    lengths: np.ndarray
    bare_ids: np.ndarray
    answer_ids: np.ndarray
    similar: tuple[int, ...]
    inputs: PolicyInputs

    @property
    def context_tokens(self) -> int:
        """Tokens of all passages."""
        return int(self.lengths.sum())


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one setting.

    Attributes:
        prompts: One a context.
        chunks: Chunk embeddings of all their passages, shape (chunks, d_dec).
    """

    prompts: list[Prompt]
    chunks: Tensor


def build_prompts(
    model: RefragModel,
    contexts: Sequence[Context],
    *,
    max_new_tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Prompts:
    """Encodes all passages and lays every prompt out as the generator does for a user.

    Args:
        model: The model, in evaluation mode.
        contexts: Questions with passages.
        max_new_tokens: Room to keep for an answer in the decoder's window.
        progress: Called with the number of contexts done.

    Raises:
        EvaluationError: If a full context does not fit the decoder's window.
    """
    texts = list(dict.fromkeys(text for context in contexts for text in context.passages))
    store = MemoryStore(max_bytes=None)
    table = []
    first_row: dict[str, int] = {}
    batch_size = 256 if model.device.type == "cuda" else 16
    n_chunks = 0
    for start in range(0, len(texts), _ENCODED_AT_ONCE):
        batch = texts[start : start + _ENCODED_AT_ONCE]
        encoded = model.encode_passages(batch, batch_size=batch_size)
        store.mset(
            (passage_key(text, model.fingerprint), vectors)
            for text, vectors in zip(batch, encoded, strict=True)
        )
        with torch.inference_mode():
            table.append(model.chunk_embeddings(encoded))
        for text, vectors in zip(batch, encoded, strict=True):
            first_row[text] = n_chunks
            n_chunks += vectors.n_chunks
    generator = RefragGenerator(model, store=store, policy="none")
    tokenizer = PromptTokenizer(model.tokenizer)
    questions = model.encode_questions([context.question.text for context in contexts])
    prompts = []
    for context, question in zip(contexts, questions, strict=True):
        prompt = _prompt(model, generator, tokenizer, context, question, first_row)
        if len(prompt.token_ids) + max_new_tokens > model.window:
            msg = (
                f"the full context of question {context.question.id!r} takes "
                f"{len(prompt.token_ids)} tokens, which with an answer of {max_new_tokens} is more "
                f"than the decoder's window of {model.window}; use fewer passages"
            )
            raise EvaluationError(msg)
        prompts.append(prompt)
        if progress is not None:
            progress(1)
    return Prompts(prompts, torch.cat(table))


def _prompt(
    model: RefragModel,
    generator: RefragGenerator,
    tokenizer: PromptTokenizer,
    context: Context,
    encoded: EncodedQuestion,
    first_row: dict[str, int],
) -> Prompt:
    question = context.question

    def layout(passages: Sequence[str]) -> Layout:
        parts = render(messages(question.text, passages), model.tokenizer)
        return generator.prepare(Request(parts, question.text)).layout

    layout_with = layout(context.passages)
    tokens, chunk_of, passage_of, between = [], [], [], []
    rows: list[np.ndarray] = []
    passages: list[ChunkVectors] = []
    n_chunks = 0
    for segment in layout_with.segments:
        if isinstance(segment, TextSegment):
            n = len(segment.token_ids)
            tokens.append(np.asarray(segment.token_ids, np.int64))
            chunk_of.append(np.full(n, -1))
            inner = 0 < len(passages) < len(context.passages)
            between.append(np.full(n, inner))
        else:
            vectors = segment.vectors
            n = vectors.n_tokens
            tokens.append(vectors.token_ids.astype(np.int64))
            chunk_of.append(n_chunks + np.arange(n) // vectors.chunk_size)
            between.append(np.zeros(n, dtype=bool))
            row = first_row[context.passages[len(passages)]]
            rows.append(row + np.arange(vectors.n_chunks))
            n_chunks += vectors.n_chunks
        passage_of.append(np.full(n, len(passages)))
        if not isinstance(segment, TextSegment):
            passages.append(segment.vectors)
    chunk = np.concatenate(chunk_of)
    answer = tokenizer.encode([TextPart(question.target)])[:_MOST_ANSWER_TOKENS]
    bare = layout(())
    return Prompt(
        token_ids=np.concatenate(tokens),
        chunk_of=chunk,
        passage_of=np.concatenate(passage_of),
        between=np.concatenate(between),
        begins=(chunk >= 0) & (np.diff(chunk, prepend=-1) != 0),
        chunk_rows=np.concatenate(rows),
        lengths=np.concatenate([vectors.chunk_lengths for vectors in passages]),
        bare_ids=np.concatenate([s.token_ids for s in bare.segments if isinstance(s, TextSegment)]),
        answer_ids=answer,
        similar=context.similar,
        inputs=PolicyInputs(passages, encoded),
    )


def build_row(prompt: Prompt, method: Method, scores: np.ndarray | None) -> Row:
    """Lays a prompt out as a method has it.

    Args:
        prompt: The prompt.
        method: What becomes of its context.
        scores: The selection's score of each chunk, where the method is a selection.
    """
    if method.way == "none":
        return _plain(prompt.bare_ids, prompt, context_positions=0)
    if method.way == "full":
        return _plain(prompt.token_ids, prompt, context_positions=prompt.context_tokens)
    if method.way in ("last", "fewer"):
        return _equal_positions(prompt, method)
    expanded = np.zeros(len(prompt.lengths), dtype=bool)
    if scores is not None:
        expanded = select(scores, prompt.lengths, FractionBudget(float(method.fraction)))
    in_chunk = prompt.chunk_of >= 0
    compressed = in_chunk & ~expanded[prompt.chunk_of]
    kept = ~compressed | prompt.begins  # of a compressed chunk one position is left
    is_chunk = compressed[kept]
    return Row(
        token_ids=np.where(is_chunk, 0, prompt.token_ids[kept]),
        chunk_index=np.where(is_chunk, prompt.chunk_rows[prompt.chunk_of[kept]], -1),
        answer_ids=prompt.answer_ids,
        context_positions=int((kept & in_chunk).sum()),
    )


def _plain(token_ids: np.ndarray, prompt: Prompt, *, context_positions: int) -> Row:
    none = np.full(len(token_ids), -1)
    return Row(token_ids, none, prompt.answer_ids, context_positions)


def _equal_positions(prompt: Prompt, method: Method) -> Row:
    """Plain tokens, as many as a context takes when a fraction p of its chunks expands."""
    lengths = prompt.lengths
    expanded = round(method.fraction * len(lengths))
    room = len(lengths) + int(np.sort(lengths - 1)[::-1][:expanded].sum())
    in_context = prompt.chunk_of >= 0
    kept = np.zeros(len(in_context), dtype=bool)
    if method.way == "last":
        kept[np.flatnonzero(in_context)[max(prompt.context_tokens - room, 0) :]] = True
    else:
        # The most similar passages, whole; the first one that is too long gives its beginning.
        for passage in prompt.similar:
            own = np.flatnonzero(in_context & (prompt.passage_of == passage))[:room]
            kept[own] = True
            room -= len(own)
    present = np.zeros(len(prompt.similar) + 1, dtype=bool)
    present[prompt.passage_of[kept]] = True
    # The text between passages stays where there is a passage on both sides.
    earlier = np.cumsum(present) - present > 0
    separates = present[prompt.passage_of] & earlier[prompt.passage_of]
    shown = kept | (~in_context & (~prompt.between | separates))
    return _plain(prompt.token_ids[shown], prompt, context_positions=int(kept.sum()))
