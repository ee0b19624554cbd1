"""Chunk scores of many contexts, by every selection that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

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
from refrag_components.policies.named.perplexity import chunk_losses

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["SELECTIONS", "check_selection", "chunk_scores", "selections_of"]

_BASELINES = ("perplexity-ascending", "recent")  # which are not policies

#: Selections that work with every checkpoint. What ``all`` and ``none`` do is a row of its own.
SELECTIONS: tuple[str, ...] = tuple(
    sorted({*POLICIES, *_BASELINES} - {AllPolicy.name, NonePolicy.name} - {*NETWORKS})
)


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
        tokens = [passage.token_ids for passage in distinct.values()]
        sizes = [passage.chunk_size for passage in distinct.values()]
        at_once = (1 << 14) if model.device.type == "cuda" else (1 << 11)
        with mixed_precision(model):
            found = chunk_losses(model, tokens, sizes, at_once=at_once)
        losses = dict(zip(distinct, found, strict=True))
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
