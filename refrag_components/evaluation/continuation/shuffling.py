"""Contexts whose paragraphs are in random order, as retrieved passages are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from refrag_components.corpus import TokenisedCorpus
from refrag_components.exceptions import EmptyInputError

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["shuffle_paragraphs"]

_BLANK_LINE = "\n\n"
_SPARE = 32  # tokens before the context, because text tokenised again may have fewer tokens


def shuffle_paragraphs(
    corpus: TokenisedCorpus,
    starts: np.ndarray,
    model: RefragModel,
    *,
    context_tokens: int,
    output_tokens: int,
    seed: int = 0,
) -> tuple[TokenisedCorpus, np.ndarray]:
    """Shuffles the paragraphs before each output; the outputs do not change.

    A paragraph ends at a blank line or with its document. The output no longer follows the last
    tokens of the context, so keeping the last K tokens no longer helps.

    Args:
        corpus: Tokenised text.
        starts: First output token of each window, shape (n,).
        model: Provides the tokenizer.
        context_tokens: Context tokens (s).
        output_tokens: Output tokens (o).
        seed: Seed of the orders.

    Returns:
        A corpus of the windows only, one after another, and their first output tokens, shape (m,).
        Windows at the very beginning of the corpus may be lost.

    Raises:
        EmptyInputError: If no window is left.
    """
    rows = []
    for i, start in enumerate(starts.tolist()):
        rng = np.random.default_rng([seed, i])
        before = corpus.tokens[max(start - context_tokens - _SPARE, 0) : start]
        text = _shuffled(np.asarray(before, dtype=np.int64), model, rng)
        (passage,) = model.chunker.chunk([text])
        surplus = len(passage.token_ids) - context_tokens
        if surplus >= 0:
            output = corpus.tokens[start : start + output_tokens]
            rows += [passage.token_ids[surplus:].astype(np.int64), output.astype(np.int64)]
    if not rows:
        msg = f"no window has {context_tokens} tokens of context; use longer text"
        raise EmptyInputError(msg)
    tokens = np.concatenate(rows)
    span = context_tokens + output_tokens
    return replace(corpus, tokens=tokens), np.arange(context_tokens, len(tokens), span)


def _shuffled(token_ids: np.ndarray, model: RefragModel, rng: np.random.Generator) -> str:
    documents = np.split(token_ids, np.flatnonzero(token_ids == model.first_token_id))
    texts = [str(model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in documents]
    paragraphs = [
        paragraph.strip("\n")
        for text in texts
        for paragraph in text.split(_BLANK_LINE)
        if paragraph.strip()
    ]
    rng.shuffle(paragraphs)
    return _BLANK_LINE.join(paragraphs)
