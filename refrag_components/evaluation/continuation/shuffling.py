"""Contexts whose paragraphs are in random order, as retrieved passages are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from refrag_components.corpus import TokenisedCorpus
from refrag_components.exceptions import EmptyInputError
from refrag_components.modeling.chunk_encoder import covering_tokens
from refrag_components.text.tokenization import content_tokenizer

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
        model: Provides both tokenizers.
        context_tokens: Context tokens (s).
        output_tokens: Output tokens (o).
        seed: Seed of the orders.

    Returns:
        A corpus of the windows only, one after another, and their first output tokens, shape (m,).
        Windows at the very beginning of the corpus may be lost.

    Raises:
        EmptyInputError: If no window is left.
    """
    encoder_tokenizer = content_tokenizer(model.encoder.tokenizer)
    tokens, encoder_ids, covering = [], [], []
    n_encoder_ids = 0
    for i, start in enumerate(starts.tolist()):
        rng = np.random.default_rng([seed, i])
        before = corpus.tokens[max(start - context_tokens - _SPARE, 0) : start]
        text = _shuffled(np.asarray(before, dtype=np.int64), model, rng)
        (passage,) = model.chunker.chunk([text])
        surplus = len(passage.token_ids) - context_tokens
        if surplus < 0:
            continue
        output = np.asarray(corpus.tokens[start : start + output_tokens], dtype=np.int64)
        encoding = encoder_tokenizer.encode(passage.text, add_special_tokens=False)
        begins = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0]
        over = np.maximum(covering_tokens(passage.offsets[surplus:, 1].astype(np.int64), begins), 0)
        tokens += [passage.token_ids[surplus:].astype(np.int64), output]
        encoder_ids.append(np.asarray(encoding.ids, dtype=np.int64))
        # The output is never encoded; its tokens point at any encoder token of this window.
        covering += [over + n_encoder_ids, np.full(len(output), n_encoder_ids + over[-1])]
        n_encoder_ids += len(encoding.ids)
    if not tokens:
        msg = f"no window has {context_tokens} tokens of context; use longer text"
        raise EmptyInputError(msg)
    span = context_tokens + output_tokens
    row = np.concatenate(covering)
    shuffled = TokenisedCorpus(
        tokens=np.concatenate(tokens),
        pieces=np.concatenate(encoder_ids),
        steps=np.diff(row, prepend=-1),
        covering=row,
    )
    return shuffled, np.arange(context_tokens, len(row), span)


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
