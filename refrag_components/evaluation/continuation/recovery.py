"""Log-perplexity of a continuation without context, and with it compressed or in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from refrag_components.corpus import (
    IGNORED,
    Batch,
    ClozeForm,
    TokenisedCorpus,
    WindowSpec,
    batch_logits,
    cut_windows,
)
from refrag_components.evaluation.precision import mixed_precision
from refrag_components.evaluation.statistics import interval, resample
from refrag_components.exceptions import EmptyInputError
from refrag_components.modeling import RefragModel

__all__ = [
    "PASSAGE_TOKENS",
    "measure_recovery",
    "quick_recovery",
    "recovery_interval",
    "token_losses",
    "window_losses",
    "window_starts",
]

#: Tokens per passage into which a context of running text is cut.
PASSAGE_TOKENS = 256


@torch.inference_mode()
def token_losses(model: RefragModel, batch: Batch) -> np.ndarray:
    """Negative log-likelihood of each output token of a batch of windows.

    Returns:
        Nats, shape (rows, o), float64; NaN where a label does not count.
    """
    batch = batch.to(model.device)
    with mixed_precision(model):
        logits = batch_logits(model, batch)
    nll = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), batch.labels, reduction="none"
    )
    nll = nll.double().masked_fill(batch.labels == IGNORED, torch.nan)
    losses: np.ndarray = nll.cpu().numpy()
    return losses


def window_starts(
    corpus: TokenisedCorpus, context_tokens: int, output_tokens: int, max_windows: int | None
) -> np.ndarray:
    """First output token of windows that do not overlap, shape (n,).

    Args:
        corpus: The text.
        context_tokens: Context tokens (s).
        output_tokens: Output tokens (o).
        max_windows: Number of evenly spread windows to use; None uses all.

    Raises:
        EmptyInputError: If the corpus is shorter than one window.
    """
    span = context_tokens + output_tokens
    starts = np.arange(context_tokens, len(corpus) - output_tokens + 1, span)
    if not len(starts):
        msg = f"the corpus has {len(corpus)} tokens; one window needs {span}"
        raise EmptyInputError(msg)
    if max_windows is not None and max_windows < len(starts):
        starts = starts[np.linspace(0, len(starts) - 1, max_windows).round().astype(int)]
    return starts


def window_losses(
    model: RefragModel,
    corpus: TokenisedCorpus,
    spec: WindowSpec,
    starts: np.ndarray,
    *,
    batch_size: int = 16,
    seed: int = 0,
    form: ClozeForm | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Mean negative log-likelihood of each window's output tokens.

    Args:
        model: The model, in evaluation mode.
        corpus: Held-out text.
        spec: Context, output and expanded fraction.
        starts: First *output* token of each window, shape (n,); the outputs are the same whatever
            the context is.
        batch_size: Windows per forward pass.
        seed: Seed of the expanded chunks, recalled spans and questions.
        form: Form of the questions; needed if ``spec.cloze``.
        progress: Called with the number of windows done after each pass.

    Returns:
        Nats per token, shape (n,), float64; NaN if no question could be made from a window.
    """
    losses = []
    rng = np.random.default_rng([seed, 4])
    for first in range(0, len(starts), batch_size):
        batch = cut_windows(
            corpus,
            starts[first : first + batch_size] - spec.context_tokens,
            spec,
            encoder=model.encoder,
            separator=model.first_token_id,
            rng=rng,
            form=form,
        )
        losses.append(np.nanmean(token_losses(model, batch), axis=1))
        if progress is not None:
            progress(len(losses[-1]))
    return np.concatenate(losses)


def measure_recovery(
    model: RefragModel,
    corpus: TokenisedCorpus,
    *,
    chunk_size: int,
    context_tokens: int = 1024,
    output_tokens: int = 256,
    fractions: Sequence[float] = (0.0, 0.1, 0.25, 0.5),
    max_windows: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Recovery (none - compressed) / (none - full), with 95% bootstrap intervals.

    "none" and "full" are the same weights without context and with every chunk expanded; at each
    fraction p random chunks are expanded. Windows do not overlap.

    Args:
        model: The model, in evaluation mode.
        corpus: Held-out text.
        chunk_size: Tokens per chunk (k).
        context_tokens: Context tokens (s), a multiple of 256.
        output_tokens: Output tokens (o).
        fractions: Expanded fractions p.
        max_windows: Number of evenly spread windows to use; None uses all.
        batch_size: Windows per forward pass.
        progress: Called with the number of windows done after each pass.

    Returns:
        ``windows``, mean log-perplexities without and with full context in nats and, for each p,
        log-perplexity, compression rate, recovery and its interval.

    Raises:
        EmptyInputError: If the corpus is shorter than one window.
    """
    starts = window_starts(corpus, context_tokens, output_tokens, max_windows)
    full_spec = WindowSpec(
        chunk_size=chunk_size,
        passages=context_tokens // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=output_tokens,
        expanded=1.0,
    )

    def losses(spec: WindowSpec) -> np.ndarray:
        return window_losses(model, corpus, spec, starts, batch_size=batch_size, progress=progress)

    none = losses(replace(full_spec, passages=0))
    full = losses(full_spec)
    rows = []
    for p in fractions:
        compressed = losses(replace(full_spec, expanded=p))
        low, high = recovery_interval(none, compressed, full)
        rows.append(
            {
                "expanded": p,
                "rate": chunk_size / (1 - p + chunk_size * p),
                "log_ppl": float(compressed.mean()),
                "recovery": float(_recovery(none.mean(), compressed.mean(), full.mean())),
                "interval": [low, high],
            }
        )
    return {
        "chunk_size": chunk_size,
        "context_tokens": context_tokens,
        "output_tokens": output_tokens,
        "windows": len(starts),
        "none": float(none.mean()),
        "full": float(full.mean()),
        "compressed": rows,
    }


def quick_recovery(
    model: RefragModel, corpus: TokenisedCorpus, chunk_size: int, windows: int = 96
) -> dict[str, float]:
    """A small measurement for the training log; its keys contain k."""
    training = model.training
    model.eval()
    result = measure_recovery(
        model,
        corpus,
        chunk_size=chunk_size,
        fractions=(0.0, 0.25),
        max_windows=windows,
        context_tokens=min(1024, len(corpus) // 2 // 256 * 256),
    )
    model.train(training)
    values = {"none": result["none"], "full": result["full"]}
    for row in result["compressed"]:
        values[f"p{row['expanded']:g}"] = row["log_ppl"]
        values[f"recovery_p{row['expanded']:g}"] = row["recovery"]
    return {f"k{chunk_size}_{name}": value for name, value in values.items()}


def recovery_interval(
    none: np.ndarray, compressed: np.ndarray, full: np.ndarray
) -> tuple[float, float]:
    """95% interval of the recovery over windows, with all three values drawn together.

    Args:
        none: Nats of each window without context, shape (windows,).
        compressed: Nats after the compressed context, same shape.
        full: Nats after the full context, same shape.
    """
    draws = resample([np.stack([none, compressed, full], axis=1)])
    return interval(_recovery(*draws.T))


def _recovery(none: np.ndarray, compressed: np.ndarray, full: np.ndarray) -> np.ndarray:
    share: np.ndarray = (none - compressed) / (none - full)
    return share
