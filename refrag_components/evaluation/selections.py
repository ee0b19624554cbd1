"""Chunk scores of many contexts, by every selection that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from refrag_components.evaluation.precision import mixed_precision
from refrag_components.exceptions import UnknownPolicyError
from refrag_components.modeling.policy_network import NETWORKS
from refrag_components.policies import (
    POLICIES,
    AllPolicy,
    NonePolicy,
    PolicyInputs,
    make_policy,
)
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["SELECTIONS", "check_selection", "chunk_scores", "passage_losses", "selections_of"]

_BASELINES = ("perplexity-ascending", "recent")  # which are no policies

#: Selections that work with every checkpoint. What ``all`` and ``none`` do is a row of its own.
SELECTIONS: tuple[str, ...] = tuple(
    sorted({*POLICIES, *_BASELINES} - {AllPolicy.name, NonePolicy.name} - {*NETWORKS})
)

_STRIDE = 512  # tokens per forward pass of the perplexity policy


def check_selection(name: str) -> None:
    """Checks the name of a selection.

    Raises:
        UnknownPolicyError: If there is no selection and no policy of that name.
    """
    known = sorted({*SELECTIONS, *POLICIES})
    if name not in known:
        msg = f"unknown selection {name!r}; choose one of {', '.join(known)}"
        raise UnknownPolicyError(msg)


def selections_of(model: RefragModel) -> tuple[str, ...]:
    """What is compared by default: ``SELECTIONS`` and the policies trained for the model."""
    return (*SELECTIONS, *(name for name in POLICIES if name in model.policies))


def chunk_scores(
    name: str,
    model: RefragModel,
    inputs: Sequence[PolicyInputs],
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Scores the chunks of every context; the scores equal the policy's for single contexts.

    Passes of the decoder over single passages are batched.

    Args:
        name: Name of a selection: that of a policy, "perplexity-ascending", or "recent" (the last
            chunks expand first).
        model: The model.
        inputs: Contexts with their questions.
        progress: Called with the number of contexts done.

    Returns:
        One array per context, shape (n_chunks,), float32; higher scores expand first.
    """
    check_selection(name)
    if name == "recent":
        scores = [np.arange(context.n_chunks, dtype=np.float32) for context in inputs]
    elif name.startswith("perplexity"):
        sign = np.float32(-1 if name.endswith("ascending") else 1)
        distinct = {id(passage): passage for context in inputs for passage in context.passages}
        losses = dict(zip(distinct, passage_losses(model, list(distinct.values())), strict=True))
        scores = [
            sign * np.concatenate([losses[id(passage)] for passage in context.passages])
            for context in inputs
        ]
    else:
        policy = make_policy(name, model)
        scores = []
        for context in inputs:
            scores.append(policy.scores(context))
            if progress is not None:
                progress(1)
        return scores
    if progress is not None:
        progress(len(inputs))
    return scores


@torch.inference_mode()
def passage_losses(model: RefragModel, passages: Sequence[ChunkVectors]) -> list[np.ndarray]:
    """Mean negative log-likelihood of each chunk's tokens, as ``PerplexityPolicy`` scores them.

    Returns:
        One array per passage, shape (n_chunks,), nats, float32.
    """
    stride = min(_STRIDE, model.window - 1)
    windows = [
        (i, np.asarray(passage.token_ids[start : start + stride], np.int64))
        for i, passage in enumerate(passages)
        for start in range(0, passage.n_tokens, stride)
    ]
    # The logits, tokens x vocabulary, dominate memory.
    most = (1 << 14) if model.device.type == "cuda" else (1 << 11)
    order = sorted(range(len(windows)), key=lambda j: len(windows[j][1]))
    losses: dict[int, np.ndarray] = {}
    batch: list[int] = []
    for j in order:
        if batch and (len(batch) + 1) * len(windows[j][1]) > most:
            losses.update(_token_losses(model, windows, batch))
            batch = []
        batch.append(j)
    if batch:
        losses.update(_token_losses(model, windows, batch))
    by_passage: list[list[np.ndarray]] = [[] for _ in passages]
    for j, (i, _) in enumerate(windows):
        by_passage[i].append(losses[j])
    return [
        _by_chunk(np.concatenate([np.zeros(0, np.float32), *parts]), passage)
        for parts, passage in zip(by_passage, passages, strict=True)
    ]


def _token_losses(
    model: RefragModel, windows: Sequence[tuple[int, np.ndarray]], batch: Sequence[int]
) -> dict[int, np.ndarray]:
    lengths = [len(windows[j][1]) for j in batch]
    # Padded on the right, where causal attention hides it.
    ids = np.full((len(batch), 1 + max(lengths)), model.first_token_id, dtype=np.int64)
    for row, j in enumerate(batch):
        ids[row, 1 : 1 + lengths[row]] = windows[j][1]
    tokens = torch.from_numpy(ids).to(model.device)
    with mixed_precision(model):
        logits = model.decoder(input_ids=tokens[:, :-1], use_cache=False).logits
    nll = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), tokens[:, 1:], reduction="none"
    )
    rows = nll.cpu().numpy()
    return {j: rows[i, : lengths[i]] for i, j in enumerate(batch)}


def _by_chunk(losses: np.ndarray, passage: ChunkVectors) -> np.ndarray:
    if not len(losses):
        return losses
    starts = np.arange(0, len(losses), passage.chunk_size)
    means: np.ndarray = np.add.reduceat(losses, starts) / passage.chunk_lengths
    return means.astype(np.float32)
