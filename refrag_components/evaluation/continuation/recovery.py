"""Log-perplexity of a continuation without context, and with it compressed or in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from refrag_components.corpus import Batch, TokenisedCorpus, WindowSpec, batch_logits, cut_windows
from refrag_components.evaluation.precision import mixed_precision
from refrag_components.evaluation.statistics import interval, resample
from refrag_components.exceptions import EmptyInputError, EvaluationError
from refrag_components.modeling import RefragModel

__all__ = [
    "PASSAGE_TOKENS",
    "RECALLED",
    "cut_evenly",
    "measure_recovery",
    "quick_recovery",
    "quick_text_loss",
    "recovery_interval",
    "token_losses",
    "window_losses",
    "window_starts",
]

#: Tokens per passage into which a context of running text is cut.
PASSAGE_TOKENS = 256
#: Spans that are recalled from anywhere in a context.
RECALLED = 4

_QUICK_CONTEXT = 1024  # tokens, of measurements for a training log
_QUICK_OUTPUT = 256


@torch.inference_mode()
def token_losses(model: RefragModel, batch: Batch) -> np.ndarray:
    """Negative log-likelihood of each label of a batch of windows.

    Returns:
        Nats, shape (rows, labels per row), float64: the output's first, then those of recalled
        spans.
    """
    rows = len(batch.token_ids)
    batch = batch.to(model.device)
    with mixed_precision(model):
        logits = batch_logits(model, batch)
    nll = torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none")
    losses: np.ndarray = nll.view(rows, -1).double().cpu().numpy()
    return losses


def cut_evenly(
    model: RefragModel,
    corpus: TokenisedCorpus,
    starts: np.ndarray,
    spec: WindowSpec,
    k: int,
    *,
    chosen: np.ndarray | None = None,
    drop: bool = False,
    seed: int = 0,
) -> Batch:
    """Cuts windows whose rows all have the same number of positions.

    Args:
        model: Provides chunk size, rungs and separator.
        corpus: The text.
        starts: First *output* token of each window, shape (n,).
        spec: Context, output and expanded fraction.
        k: Tokens per chunk embedding: one of the rungs if the encoder is made of the decoder's
            layers, otherwise from 1 to the checkpoint's largest chunk size.
        chosen: As for ``cut_windows``.
        drop: Drop what is not expanded.
        seed: Seed of expanded runs and recalled spans; the same spans for every context.

    Raises:
        EvaluationError: If the checkpoint does not have this k.
    """
    config = model.config
    base, rungs = (config.chunk_size, config.rungs) if config.encoder_layers else (k, (k,))
    if config.encoder_layers and k not in rungs:
        msg = f"this checkpoint has the rungs {rungs}, got a chunk size of {k}"
        raise EvaluationError(msg)
    if not config.encoder_layers and not 1 <= k <= config.max_chunk_size:
        msg = f"this checkpoint takes chunks of 1 to {config.max_chunk_size} tokens, got {k}"
        raise EvaluationError(msg)
    return cut_windows(
        corpus,
        starts - spec.context_tokens,
        spec,
        chunk_size=base,
        rungs=rungs,
        row_rungs=[0 if drop else k] * len(starts),
        separator=model.first_token_id,
        rng=np.random.default_rng([seed, 4, int(starts[0])]),
        chosen=chosen,
    )


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
    k: int,
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Mean negative log-likelihood of each window's output tokens and of its recalled spans.

    Args:
        model: The model, in evaluation mode.
        corpus: Held-out text.
        spec: Context, output and expanded fraction.
        starts: First *output* token of each window, shape (n,); the outputs are the same whatever
            the context is.
        k: Tokens per chunk embedding, as for ``cut_evenly``.
        batch_size: Windows per forward pass.
        progress: Called with the number of windows done after each pass.

    Returns:
        Nats per token, shape (n, 2), float64; the second is NaN if nothing is recalled.
    """
    losses = []
    for first in range(0, len(starts), batch_size):
        batch = cut_evenly(model, corpus, starts[first : first + batch_size], spec, k)
        each = token_losses(model, batch)
        output, recalled = np.split(each, [spec.output_tokens], axis=1)
        second = recalled.mean(axis=1) if spec.recalled else np.full(len(each), np.nan)
        losses.append(np.stack([output.mean(axis=1), second], axis=1))
        if progress is not None:
            progress(len(each))
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
    fraction p random chunks are expanded. Windows do not overlap. The same is measured of 48 tokens
    that are recalled from anywhere in the context.

    Args:
        model: The model, in evaluation mode.
        corpus: Held-out text.
        chunk_size: Tokens per chunk embedding (k), as for ``cut_evenly``.
        context_tokens: Context tokens (s), a multiple of 256.
        output_tokens: Output tokens (o).
        fractions: Expanded fractions p.
        max_windows: Number of evenly spread windows to use; None uses all.
        batch_size: Windows per forward pass.
        progress: Called with the number of windows done after each pass.

    Returns:
        ``windows``, mean log-perplexities without and with full context in nats and, for each p,
        log-perplexity, compression rate, recovery and its interval; the same log-perplexities and
        recovery of recalled spans under names that begin with ``recall``.

    Raises:
        EmptyInputError: If the corpus is shorter than one window.
    """
    starts = window_starts(corpus, context_tokens, output_tokens, max_windows)
    full_spec = WindowSpec(
        passages=context_tokens // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=output_tokens,
        expanded=1.0,
        run=chunk_size,
        recalled=RECALLED,
    )

    def losses(spec: WindowSpec) -> np.ndarray:
        return window_losses(
            model, corpus, spec, starts, chunk_size, batch_size=batch_size, progress=progress
        )

    none = losses(replace(full_spec, shown=False))
    full = losses(full_spec)
    rows = []
    for p in fractions:
        compressed = losses(replace(full_spec, expanded=p))
        low, high = recovery_interval(none[:, 0], compressed[:, 0], full[:, 0])
        means = [values.mean(axis=0) for values in (none, compressed, full)]
        recovered, recalled = _recovery(*means).tolist()
        rows.append(
            {
                "expanded": p,
                "rate": chunk_size / (1 - p + chunk_size * p),
                "log_ppl": float(means[1][0]),
                "recovery": recovered,
                "interval": [low, high],
                "recall_log_ppl": float(means[1][1]),
                "recall_recovery": recalled,
            }
        )
    return {
        "chunk_size": chunk_size,
        "context_tokens": context_tokens,
        "output_tokens": output_tokens,
        "windows": len(starts),
        "none": float(none[:, 0].mean()),
        "full": float(full[:, 0].mean()),
        "recall_none": float(none[:, 1].mean()),
        "recall_full": float(full[:, 1].mean()),
        "compressed": rows,
    }


def quick_recovery(
    model: RefragModel, corpus: TokenisedCorpus, windows: int = 96
) -> dict[str, float]:
    """A small measurement on every rung for the training log; its keys contain the rung."""
    values: dict[str, float] = {}
    training = model.training
    model.eval()
    for rung in model.config.rungs:
        result = measure_recovery(
            model,
            corpus,
            chunk_size=rung,
            fractions=(0.0,),
            max_windows=windows,
            context_tokens=_quick_context(corpus),
        )
        values |= {"none": result["none"], "full": result["full"]}
        (row,) = result["compressed"]
        for name in ("log_ppl", "recovery", "recall_log_ppl", "recall_recovery"):
            values[f"k{rung}_{name}"] = row[name]
    model.train(training)
    return values


def quick_text_loss(
    model: RefragModel, corpus: TokenisedCorpus, windows: int = 96
) -> dict[str, float]:
    """Log-perplexity of a continuation after the full context, for the training log."""
    context = _quick_context(corpus)
    starts = window_starts(corpus, context, _QUICK_OUTPUT, windows)
    spec = WindowSpec(
        passages=context // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=_QUICK_OUTPUT,
        expanded=1.0,
    )
    training = model.training
    model.eval()
    losses = window_losses(model, corpus, spec, starts, model.config.chunk_size)
    model.train(training)
    return {"full": float(losses[:, 0].mean())}


def _quick_context(corpus: TokenisedCorpus) -> int:
    return min(_QUICK_CONTEXT, max(len(corpus) // 2 // PASSAGE_TOKENS, 1) * PASSAGE_TOKENS)


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
