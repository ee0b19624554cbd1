"""Windows of running text: a context, compressed or not, and the tokens that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.corpus.batch import IGNORED, Batch
from refrag_components.corpus.cloze import ClozeForm, ask_for_gaps
from refrag_components.corpus.encoder_input import encoder_input
from refrag_components.corpus.tokenised import TokenisedCorpus

if TYPE_CHECKING:
    from refrag_components.modeling.chunk_encoder import ChunkEncoder

__all__ = ["WindowSpec", "cut_windows"]

# Nothing tells which span comes next: its first tokens have to be given.
_UNFORETOLD = 2


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How one batch of windows is cut; all its rows have one shape, so nothing is padded.

    Attributes:
        chunk_size: Tokens a chunk (k).
        passages: Passages that the context consists of; 0 for no context.
        passage_tokens: Tokens a passage. Where it is no multiple of k the last chunk is shorter.
        output_tokens: Tokens after the context whose loss counts (o).
        expanded: Fraction p of the chunks that enter as tokens, drawn at random. Between 0 and 1
            only whole chunks are drawn, so that every row has the same number of positions.
        run: Chunks that expand together: random ones are drawn as runs of so many.
        recent: The last chunks expand instead of random ones.
        reconstruct: The output is the context itself (stage 1) instead of what follows it.
        recalled: The output is spans of so many tokens from anywhere in the context, 0 for none.
            What comes after a span's first tokens has to be looked up by what they say, and not,
            as in a reconstruction, by where they stand.
        cloze: The output is questions about the context and their answers, which alone count.
        shuffled: The passages stand in random order, as retrieved ones do.
    """

    chunk_size: int
    passages: int
    passage_tokens: int
    output_tokens: int
    expanded: float = 0.0
    run: int = 1
    recent: bool = False
    reconstruct: bool = False
    recalled: int = 0
    cloze: bool = False
    shuffled: bool = False

    def __post_init__(self) -> None:
        """Checks that the last chunks are not asked for in runs."""
        if self.run < 1 or (self.recent and self.run > 1):
            msg = f"run is a number of random chunks, 1 or more; got {self.run}"
            raise ValueError(msg)

    @property
    def quotes(self) -> bool:
        """Whether the output is taken from the context."""
        return self.reconstruct or self.recalled > 0 or self.cloze

    @property
    def context_tokens(self) -> int:
        """Tokens of the context (s)."""
        return self.passages * self.passage_tokens

    @property
    def span(self) -> int:
        """Tokens of running text that a window covers."""
        after = 0 if self.quotes else self.output_tokens
        return self.context_tokens + after

    @property
    def positions(self) -> int:
        """Decoder positions of a row, about (exact where k divides ``passage_tokens``)."""
        chunks = self.passages * -(-self.passage_tokens // self.chunk_size)
        expanded = self.runs(chunks) * self.run
        context = min(self.context_tokens, chunks + expanded * (self.chunk_size - 1))
        return 1 + context + self.output_tokens

    def runs(self, chunks: int) -> int:
        """How many runs of so many chunks expand; at least one where any chunk is to."""
        return max(round(self.expanded * chunks / self.run), self.run > 1 and self.expanded > 0)


def cut_windows(
    corpus: TokenisedCorpus,
    starts: np.ndarray,
    spec: WindowSpec,
    *,
    encoder: ChunkEncoder,
    separator: int,
    rng: np.random.Generator,
    form: ClozeForm | None = None,
    with_full_text: bool = False,
    with_context_labels: bool = False,
) -> Batch:
    """Cuts one batch of windows out of a corpus.

    Every row is [separator, context, output]. Before an output that is taken from the context a
    second separator stands, so that the decoder can tell quoting from going on (experiments/010).

    Args:
        corpus: Tokenised text.
        starts: First token of each window, shape (rows,); ``spec.span`` tokens must follow.
        spec: Shape of the windows.
        encoder: Gives the encoder's special tokens and window.
        separator: Token id that comes first.
        rng: Draws the expanded chunks, recalled spans and questions.
        form: What questions are made with; needed where ``spec.cloze``.
        with_full_text: Whether ``full_ids`` and what goes with it are wanted.
        with_context_labels: Whether ``context_labels`` are wanted.
    """
    rows, s, k = len(starts), spec.context_tokens, spec.chunk_size
    text = np.asarray(corpus.tokens[starts[:, None] + np.arange(spec.span)], dtype=np.int64)
    place = _order(rows, spec, rng)
    context = np.take_along_axis(text[:, :s], place, axis=1)
    output = context[:, : spec.output_tokens] if spec.reconstruct else text[:, s:]
    labels = output
    if spec.recalled:
        output, labels = _recall(context, spec, rng)
    if spec.cloze:
        assert form is not None
        asked = spec.passage_tokens, spec.output_tokens, form, rng
        output, labels = ask_for_gaps(context, *asked)
    first = np.full((rows, 1), separator)
    head = [first, context] + ([first] if spec.quotes else [])
    full_ids = np.concatenate([*head, output[:, :-1]], axis=1)

    in_passage = np.arange(s) % max(spec.passage_tokens, 1)
    begins = in_passage % k == 0
    chunk_of = np.cumsum(begins) - 1
    n_chunks = int(begins.sum())
    lengths = np.bincount(chunk_of, minlength=n_chunks)
    used = np.arange(k) < lengths[:, None]
    chunk_tokens = np.zeros((rows, n_chunks, k), dtype=np.int64)
    chunk_tokens[:, used] = context
    row_start = np.arange(rows)[:, None] * n_chunks  # chunks are numbered through the batch

    expanded = _draw(rows, lengths, spec, rng)
    by_token = expanded[:, chunk_of]
    kept = by_token | begins
    per_row = int(kept[0].sum()) if s else 0
    is_chunk = (begins & ~by_token)[kept].reshape(rows, per_row)
    context_ids = np.where(is_chunk, 0, context[kept].reshape(rows, per_row))
    index = np.where(is_chunk, (row_start + chunk_of)[kept].reshape(rows, per_row), -1)
    tail = full_ids[:, 1 + s :]
    token_ids = np.concatenate([first, context_ids, tail], axis=1)
    chunk_index = np.concatenate([first * 0 - 1, index, tail * 0 - 1], axis=1)

    # Nothing is encoded where every chunk is expanded.
    n_encoded = 0 if spec.expanded == 1.0 else n_chunks
    last = np.cumsum(lengths) - 1
    ends = np.stack([last - lengths + 1, last], axis=1)[:n_encoded]
    bounds = starts[:, None, None] + place[:, ends]
    counts = [n_encoded // spec.passages] * (rows * spec.passages) if n_encoded else []
    arrays = {
        "token_ids": token_ids,
        "chunk_index": chunk_index,
        "chunk_tokens": chunk_tokens[:, :n_encoded].reshape(-1, k),
        "chunk_used": np.tile(used[:n_encoded], (rows, 1)),
        "labels": labels,
    }
    encoded = encoder_input(corpus, bounds.reshape(-1, 2), np.array(counts), encoder)
    if spec.cloze:
        arrays["answer_index"] = np.flatnonzero(labels != IGNORED)
    if with_full_text:
        arrays["full_ids"] = full_ids
        stands_for = np.where(by_token, np.arange(s), last[chunk_of])
        in_row = 1 + stands_for[kept].reshape(rows, per_row)
        arrays["context_index"] = np.arange(rows)[:, None] * full_ids.shape[1] + in_row
        row, column = np.nonzero(~is_chunk)
        in_rows = (row * token_ids.shape[1] + 1 + column).reshape(rows, -1)
        arrays["expanded_index"] = in_rows
        arrays["expanded_full_index"] = arrays["context_index"][~is_chunk].reshape(rows, -1)
    if with_context_labels:
        # A position predicts the first text token of the next one; nothing predicts a separator.
        following = context[kept].reshape(rows, per_row)
        ignored = [np.full((rows, 1), IGNORED)] if spec.quotes else []
        arrays["context_labels"] = np.concatenate([following, *ignored], axis=1)
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
    }
    return Batch(**tensors, **encoded)


def _order(rows: int, spec: WindowSpec, rng: np.random.Generator) -> np.ndarray:
    """Where in the window's text each token of the context stands, (rows, s)."""
    passages = np.tile(np.arange(spec.passages), (rows, 1))
    if spec.shuffled:
        passages = rng.permuted(passages, axis=1)
    first = passages[:, :, None] * spec.passage_tokens
    return (first + np.arange(spec.passage_tokens)).reshape(rows, spec.context_tokens)


def _recall(
    context: np.ndarray, spec: WindowSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Spans of the context, one after another, and what of them can be foretold."""
    spans = (len(context), spec.output_tokens // spec.recalled, 1)
    first = rng.integers(spec.context_tokens - spec.recalled + 1, size=spans)
    within = np.arange(spec.recalled)
    tokens = np.take_along_axis(context[:, None], first + within, axis=2)
    labels = np.where(within < _UNFORETOLD, IGNORED, tokens)
    return tokens.reshape(len(context), -1), labels.reshape(len(context), -1)


def _draw(rows: int, lengths: np.ndarray, spec: WindowSpec, rng: np.random.Generator) -> np.ndarray:
    """Which chunks are expanded, shape (rows, chunks), bool."""
    if spec.expanded in (0.0, 1.0):
        return np.full((rows, len(lengths)), bool(spec.expanded))
    whole = np.flatnonzero(lengths == spec.chunk_size)
    shift = int(rng.integers(len(whole) % spec.run + 1))
    runs = whole[shift : shift + len(whole) // spec.run * spec.run].reshape(-1, spec.run)
    count = min(spec.runs(len(lengths)), len(runs))
    wanted = np.arange(len(runs), 0, -1) if spec.recent else rng.random((rows, len(runs)))
    picked = np.broadcast_to(wanted, (rows, len(runs))).argsort(axis=1)[:, :count]
    expanded = np.zeros((rows, len(lengths)), dtype=bool)
    np.put_along_axis(expanded, runs[picked].reshape(rows, -1), True, axis=1)
    return expanded
