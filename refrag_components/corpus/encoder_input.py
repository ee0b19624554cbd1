"""Chunks of tokenised passages to what the encoder is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from refrag_components.modeling.chunk_encoder import window_bounds

if TYPE_CHECKING:
    from refrag_components.corpus.tokenised import TokenisedCorpus
    from refrag_components.modeling.chunk_encoder import ChunkEncoder

__all__ = ["encoder_input"]

# Passages differ in length; padded to the longest, three quarters of a batch would be padding.
_GROUP_ENDS = (0.5, 0.8, 0.95, 1.0)  # shares of the windows, shortest first
_FEWEST_TO_GROUP = 40
_WORTH_GROUPING = 0.9  # share of the padded size that is left


def encoder_input(
    corpus: TokenisedCorpus, bounds: np.ndarray, counts: np.ndarray, encoder: ChunkEncoder
) -> dict[str, Any]:
    """Lays passages out for the encoder as it lays them out itself at query time.

    Args:
        corpus: Holds the passages.
        bounds: First and last token in ``corpus`` of every chunk, inclusive; (chunks, 2).
        counts: Chunks of each passage, in order, at least 1; (passages,).
        encoder: Gives special tokens and window; its ``contextual`` is true.

    Returns:
        ``pieces``, ``piece_mask``, ``spans``, ``span_index`` and ``groups`` of a ``Batch``.
    """
    if not len(counts):
        none = np.zeros((0, 1), np.int64)
        spans = np.zeros((0, 0, 2), np.int64)
        return _named(none, none, spans, np.zeros(0, np.int64), ())
    covering = corpus.covering[bounds].astype(np.int64)
    ends = np.cumsum(counts)
    # A window: its first chunk, the chunk after its last, its first piece and the one after.
    windows = np.stack([ends - counts, ends, covering[ends - counts, 0], covering[ends - 1, 1] + 1])
    if len(long := np.flatnonzero(windows[3] - windows[2] > encoder.room)):
        cut = [
            np.array([*window_bounds(covering[first:after], encoder.room)]).T
            + np.array([[first], [first], [0], [0]])
            for first, after in windows[:2, long].T
        ]
        windows = np.concatenate([np.delete(windows, long, axis=1), *cut], axis=1)
    windows = windows[:, np.argsort(windows[3] - windows[2], kind="stable")]
    first, after, origin, end = windows
    prefix, suffix = np.asarray(encoder.prefix), np.asarray(encoder.suffix)
    size = (end - origin)[:, None]
    column = np.arange(int(size.max()) + len(prefix) + len(suffix)) - len(prefix)
    inside = (column >= 0) & (column < size)
    mask = column < size + len(suffix)
    ids = np.full(mask.shape, encoder.pad_id, dtype=np.int64)
    ids[inside] = corpus.pieces[(origin[:, None] + column)[inside]]
    ids[:, : len(prefix)] = prefix
    for i, special in enumerate(suffix):
        ids[np.arange(len(ids)), size[:, 0] + len(prefix) + i] = special

    lengths = after - first
    window = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(window)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    chunk = np.repeat(first, lengths) + place
    spans = np.zeros((len(lengths), int(lengths.max()), 2), dtype=np.int64)
    local = np.minimum(covering[chunk], end[window, None] - 1) - origin[window, None] + len(prefix)
    spans[window, place] = local
    index = np.empty(len(covering), dtype=np.int64)
    index[chunk] = window * spans.shape[1] + place
    return _named(ids, mask.astype(np.int64), spans, index, _groups(mask.sum(axis=1)))


def _groups(sizes: np.ndarray) -> tuple[tuple[int, int, int], ...]:
    """Windows of similar length, for ascending lengths: first, the one after the last, length."""
    whole = ((0, len(sizes), int(sizes[-1])),)
    if len(sizes) < _FEWEST_TO_GROUP:
        return whole
    ends = [round(share * len(sizes)) for share in _GROUP_ENDS]
    groups = tuple(
        (start, end, int(sizes[end - 1])) for start, end in zip([0, *ends], ends, strict=False)
    )
    padded = sum((end - start) * length for start, end, length in groups)
    return groups if padded < _WORTH_GROUPING * len(sizes) * sizes[-1] else whole


def _named(
    ids: np.ndarray,
    mask: np.ndarray,
    spans: np.ndarray,
    index: np.ndarray,
    groups: tuple[tuple[int, int, int], ...],
) -> dict[str, Any]:
    return {
        "pieces": torch.from_numpy(ids),
        "piece_mask": torch.from_numpy(mask),
        "spans": torch.from_numpy(spans),
        "span_index": torch.from_numpy(index),
        "groups": groups,
    }
