"""Contexts whose paragraphs stand in random order, as retrieved passages do."""

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
_SPARE = 32  # tokens read before the context, because text cut anew may have a few tokens less


def shuffle_paragraphs(
    corpus: TokenisedCorpus,
    starts: np.ndarray,
    model: RefragModel,
    *,
    context_tokens: int,
    output_tokens: int,
    seed: int = 0,
) -> tuple[TokenisedCorpus, np.ndarray]:
    """Puts the paragraphs before each output into random order; the outputs stay as they are.

    A paragraph ends at a blank line or with its document. The last tokens of the context are no
    longer the ones that the output follows, so keeping the last K tokens no longer helps.

    Args:
        corpus: Tokenised text.
        starts: First output token of each window, shape (n,).
        model: Gives both tokenizers.
        context_tokens: s.
        output_tokens: o.
        seed: Draws the orders.

    Returns:
        A corpus of the windows alone, one after another, and their first output tokens, shape
        (m,). Windows at the very beginning of the corpus may be lost.

    Raises:
        EmptyInputError: If no window is left.
    """
    pieces_of = content_tokenizer(model.encoder.tokenizer)
    tokens, pieces, covering = [], [], []
    n_pieces = 0
    for i, start in enumerate(starts.tolist()):
        rng = np.random.default_rng([seed, i])
        before = corpus.tokens[max(start - context_tokens - _SPARE, 0) : start]
        text = _shuffled(np.asarray(before, dtype=np.int64), model, rng)
        (passage,) = model.chunker.chunk([text])
        surplus = len(passage.token_ids) - context_tokens
        if surplus < 0:
            continue
        output = np.asarray(corpus.tokens[start : start + output_tokens], dtype=np.int64)
        encoding = pieces_of.encode(passage.text, add_special_tokens=False)
        begins = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)[:, 0]
        over = np.maximum(covering_tokens(passage.offsets[surplus:, 1].astype(np.int64), begins), 0)
        tokens += [passage.token_ids[surplus:].astype(np.int64), output]
        pieces.append(np.asarray(encoding.ids, dtype=np.int64))
        # The output is never encoded; its tokens point at some piece of this window.
        covering += [over + n_pieces, np.full(len(output), n_pieces + over[-1])]
        n_pieces += len(encoding.ids)
    if not tokens:
        msg = f"no window has {context_tokens} tokens of context; use longer text"
        raise EmptyInputError(msg)
    span = context_tokens + output_tokens
    row = np.concatenate(covering)
    shuffled = TokenisedCorpus(
        tokens=np.concatenate(tokens),
        pieces=np.concatenate(pieces),
        steps=np.diff(row, prepend=-1),
        covering=row,
    )
    return shuffled, np.arange(context_tokens, len(row), span)


def _shuffled(token_ids: np.ndarray, model: RefragModel, rng: np.random.Generator) -> str:
    documents = np.split(token_ids, np.flatnonzero(token_ids == model.first_token_id))
    texts = [str(model.tokenizer.decode(own, skip_special_tokens=True)) for own in documents]
    paragraphs = [
        paragraph.strip("\n")
        for text in texts
        for paragraph in text.split(_BLANK_LINE)
        if paragraph.strip()
    ]
    rng.shuffle(paragraphs)
    return _BLANK_LINE.join(paragraphs)
