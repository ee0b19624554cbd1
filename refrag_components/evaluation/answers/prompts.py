"""Contexts to prompts, laid out as by the generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from refrag_components.engines.layout import Layout, TextSegment
from refrag_components.evaluation.answers.contexts import Context
from refrag_components.evaluation.answers.encoded import EncodedPassages
from refrag_components.evaluation.rows import Prompt
from refrag_components.exceptions import ContextWindowError, EvaluationError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling.encoded_question import EncodedQuestion
from refrag_components.policies import PolicyInputs
from refrag_components.prompts.parts import Message, TextPart
from refrag_components.prompts.prompt_tokenizer import PromptTokenizer
from refrag_components.prompts.rendering import render
from refrag_components.vectors import ChunkVectors

__all__ = ["PromptBuilder", "Prompts"]

_MAX_ANSWER_TOKENS = 64  # longer answers are scored by their beginning


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one setting.

    Attributes:
        prompts: One per context.
        chunks: Chunk embeddings of all their passages, shape (chunks, d_dec).
    """

    prompts: list[Prompt]
    chunks: Tensor


class PromptBuilder:
    """Lays out prompts as the generator does for a user.

    Args:
        passages: Chunk vectors of the passages; missing ones are encoded when needed.
        max_new_tokens: Tokens of the decoder's window to reserve for an answer.
    """

    def __init__(self, passages: EncodedPassages, *, max_new_tokens: int) -> None:
        self._passages = passages
        self._model = passages.model
        self._generator = RefragGenerator(
            passages.model, store=passages.store, policy="none", rest="compress"
        )
        self._tokenizer = PromptTokenizer(passages.model.tokenizer)
        self._max_new_tokens = max_new_tokens

    def build(
        self, contexts: Sequence[Context], *, progress: Callable[[int], None] | None = None
    ) -> Prompts:
        """Lays out one prompt per context.

        Args:
            contexts: Questions with passages.
            progress: Called with the number of contexts done.

        Raises:
            EvaluationError: If a context does not fit the decoder's window even with every chunk
                compressed.
        """
        texts = list(dict.fromkeys(text for context in contexts for text in context.passages))
        chunks, first_rows = self._passages.table(texts)
        questions = self._model.encode_questions([context.question.text for context in contexts])
        prompts = []
        for context, question in zip(contexts, questions, strict=True):
            try:
                prompts.append(self._prompt(context, question, first_rows))
            except ContextWindowError as error:
                msg = f"question {context.question.id!r}: {error}"
                raise EvaluationError(msg) from error
            if progress is not None:
                progress(1)
        return Prompts(prompts, chunks)

    def _layout(self, question: str, asked: Sequence[Message], answer_tokens: int) -> Layout:
        parts = render(asked, self._model.tokenizer)
        request = Request(parts, question)
        return self._generator.prepare(request, max_tokens=answer_tokens).layout

    def _prompt(
        self,
        context: Context,
        encoded: EncodedQuestion,
        first_rows: Mapping[int, Mapping[str, int]],
    ) -> Prompt:
        question = context.question
        answer = self._tokenizer.encode([TextPart(question.target)])[:_MAX_ANSWER_TOKENS]
        # Both the answer that is generated and the right one must fit after the prompt.
        reserved = max(self._max_new_tokens, len(answer))
        tokens, chunk_of, passage_of, between = [], [], [], []
        rows: dict[int, list[np.ndarray]] = {rung: [] for rung in first_rows}
        passages: list[ChunkVectors] = []
        n_chunks = 0
        for segment in self._layout(question.text, context.messages(), reserved).segments:
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
                first_token = np.arange(vectors.n_chunks) * vectors.chunk_size
                for rung, first_row in first_rows.items():
                    row = first_row[context.passages[len(passages)]]
                    rows[rung].append(row + first_token // rung)
                n_chunks += vectors.n_chunks
            passage_of.append(np.full(n, len(passages)))
            if not isinstance(segment, TextSegment):
                passages.append(segment.vectors)
        chunk = np.concatenate(chunk_of)
        free = self._model.window - int((chunk < 0).sum())  # positions for context and answer
        bare = self._layout(question.text, context.messages(shown=False), reserved)
        return Prompt(
            token_ids=np.concatenate(tokens),
            chunk_of=chunk,
            passage_of=np.concatenate(passage_of),
            between=np.concatenate(between),
            chunk_rows={rung: np.concatenate(of_rung) for rung, of_rung in rows.items()},
            lengths=np.concatenate([vectors.chunk_lengths for vectors in passages]),
            bare_ids=np.concatenate(
                [s.token_ids for s in bare.segments if isinstance(s, TextSegment)]
            ),
            answer_ids=answer,
            similar=context.similar,
            answering=np.array([text in question.needed for text in context.passages]),
            inputs=PolicyInputs(passages, encoded),
            limit=max(free - reserved, n_chunks),
        )
