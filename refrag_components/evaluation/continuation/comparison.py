"""Log-perplexity of a continuation with every method, on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from refrag_components.corpus import Batch, TokenisedCorpus, WindowSpec, policy_vectors
from refrag_components.evaluation.continuation.recovery import (
    PASSAGE_TOKENS,
    RECALLED,
    cut_evenly,
    token_losses,
    window_starts,
)
from refrag_components.evaluation.continuation.shuffling import shuffle_paragraphs
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    METHODS,
    NONE,
    Choices,
    LastTokens,
    Method,
    describe,
)
from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.selections import chunk_scores
from refrag_components.evaluation.statistics import (
    around,
    interval,
    resample,
    sign_flip_p_values,
)
from refrag_components.exceptions import EvaluationError
from refrag_components.policies import PolicyInputs
from refrag_components.vectors import ChunkVectors

if TYPE_CHECKING:
    from refrag_components.modeling import RefragModel

__all__ = ["REPLUG", "Replug", "measure_contexts"]

_FIRST = 16  # tokens right after the context, which the paper finds hardest (table 12)
_QUESTION = 64  # last tokens of the context, which are used as the question


@dataclass(frozen=True)
class Replug(Method):
    """REPLUG: the decoder reads one passage at a time, and its predictions are mixed.

    The probability of a token is the mean over passages, weighted by the softmax of the cosines
    between a passage and the last 64 tokens of the context (Shi et al. 2023). The positions count
    every passage once; the tokens after the context are read as often as there are passages.
    """

    kind = "replug"
    reads = "one passage at a time; the predictions are mixed (REPLUG)"
    label = "REPLUG"
    on_running_text = True
    fraction = None
    selection = None

    def row(self, prompt: Prompt) -> Row:
        """Refused: several rows would be needed."""
        raise EvaluationError("REPLUG is measured on running text alone")

    @classmethod
    def each(cls, choices: Choices) -> list[Self]:
        """The one row."""
        return [cls()]


REPLUG = Replug()


def measure_contexts(
    model: RefragModel,
    corpus: TokenisedCorpus,
    methods: Sequence[Method],
    *,
    chunk_size: int,
    context_tokens: int = 1024,
    output_tokens: int = 256,
    shuffled: bool = False,
    max_windows: int | None = None,
    batch_size: int = 16,
    ensemble: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures the same continuations after what each method reads of the context.

    After the continuation, 48 tokens from each of four places in the context are recalled. If a
    selection depends on a question, it gets the last 64 tokens of the context. A context that does
    not fit the decoder's window is cut to its last tokens in "full".

    Args:
        model: The model, in evaluation mode.
        corpus: Held-out text.
        methods: The methods, including "none", "full" and "compressed"; no kind that needs
            passages.
        chunk_size: Tokens per chunk embedding (k), as for ``cut_evenly``.
        context_tokens: Context tokens (s), a multiple of 256.
        output_tokens: Output tokens (o).
        shuffled: Shuffle the paragraphs of each context first.
        max_windows: Number of evenly spread windows to use; None uses all.
        batch_size: Windows per forward pass.
        ensemble: Also with every passage read by itself, see ``Replug``.
        progress: Called with the name of a task, the number of windows done since the last call,
            and the total.

    Returns:
        What was measured, "rows" (one per method: log-perplexity, that of the first 16 tokens, and
        recovery, with intervals; log-perplexity and recovery of recalled tokens) and "pairs"
        (paired differences at equal positions, and of what compresses from REPLUG).

    Raises:
        EmptyInputError: If the corpus is shorter than one window.
        EvaluationError: If the methods, k or s cannot be measured.
    """
    if missing := {NONE, FULL, COMPRESSED} - set(methods):
        names = ", ".join(sorted(method.name for method in missing))
        raise EvaluationError(f"recovery is measured against {names}; add them to the methods")
    if unfit := [method.kind for method in methods if not method.on_running_text]:
        known = ", ".join(method.kind for method in METHODS if method.on_running_text)
        msg = f"running text cannot be measured with {unfit[0]!r}; choose from {known}"
        raise EvaluationError(msg)
    if context_tokens < PASSAGE_TOKENS or context_tokens % PASSAGE_TOKENS:
        msg = f"the context must be a multiple of {PASSAGE_TOKENS} tokens, got {context_tokens}"
        raise EvaluationError(msg)
    starts = window_starts(corpus, context_tokens, output_tokens, max_windows)
    if shuffled:
        corpus, starts = shuffle_paragraphs(
            corpus, starts, model, context_tokens=context_tokens, output_tokens=output_tokens
        )
    order = "paragraphs shuffled" if shuffled else "in order"
    what = f"k={chunk_size}, s={context_tokens}"
    spec = WindowSpec(
        passages=context_tokens // PASSAGE_TOKENS,
        passage_tokens=PASSAGE_TOKENS,
        output_tokens=output_tokens,
        recalled=RECALLED,
    )
    losses: dict[Method, list[np.ndarray]] = {method: [] for method in methods}
    positions: dict[Method, int] = {}
    if ensemble:
        losses[REPLUG], positions[REPLUG] = [], context_tokens
    total = len(starts) * len(losses)
    for first in range(0, len(starts), batch_size):
        windows = _Windows(model, corpus, starts[first : first + batch_size], spec, chunk_size)
        for method in methods:
            batch, positions[method] = windows.batch(method)
            losses[method].append(token_losses(model, batch))
            if progress is not None:
                progress(f"{what}, {order}", len(losses[method][-1]), total)
        if ensemble:
            losses[REPLUG].append(windows.one_by_one())
            if progress is not None:
                progress(f"{what}, {order}", len(losses[REPLUG][-1]), total)
    values = {method: np.concatenate(batches) for method, batches in losses.items()}
    return {
        "chunk_size": chunk_size,
        "context_tokens": context_tokens,
        "output_tokens": output_tokens,
        "windows": len(starts),
        "order": order,
        **_figures(values, positions, context_tokens, output_tokens),
    }


class _Windows:
    """A batch of windows, as each method reads them."""

    def __init__(
        self,
        model: RefragModel,
        corpus: TokenisedCorpus,
        starts: np.ndarray,
        spec: WindowSpec,
        k: int,
    ) -> None:
        self._model, self._corpus, self._starts = model, corpus, starts
        self._spec, self._k = spec, k
        self._compressed = self._cut(spec)
        self._lengths = np.tile(_lengths(spec.passage_tokens, k), spec.passages)
        self._scores: dict[str, np.ndarray] = {}

    def batch(self, method: Method) -> tuple[Batch, int]:
        """The windows as a method reads them, and the positions that each context takes."""
        spec, s = self._spec, self._spec.context_tokens
        if method == NONE:
            return self._cut(replace(spec, shown=False)), 0
        limit = s
        if 1 + spec.span > self._model.window:
            limit = self._model.window - 1 - spec.tail_tokens
        if method == FULL and limit < s:
            return self._cut(spec, chosen=self._last(limit), drop=True), limit
        if method == FULL:
            return self._cut(replace(spec, expanded=1.0)), s
        fraction = method.fraction or 0.0
        expanded = min(round(fraction * len(self._lengths)), int(self._whole.sum()))
        if limit < s:
            expanded = min(expanded, max(limit - len(self._lengths), 0) // max(self._k - 1, 1))
        taken = len(self._lengths) + expanded * (self._k - 1)
        if isinstance(method, LastTokens):
            tokens = min(taken, limit)
            return self._cut(spec, chosen=self._last(tokens), drop=True), tokens
        if method.selection is None or not expanded:
            return self._compressed, taken
        scores = np.where(self._whole, self._scores_of(method.selection), -np.inf)
        chosen = np.zeros(scores.shape, dtype=bool)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :expanded]
        np.put_along_axis(chosen, best, True, axis=1)
        return self._cut(spec, chosen=chosen.repeat(self._lengths, axis=1)), taken

    def one_by_one(self) -> np.ndarray:
        """Losses if each passage is read by itself and the predictions are mixed, see ``Replug``.

        Returns:
            Nats, (rows, labels per row), as ``token_losses`` returns them.
        """
        spec = self._spec
        passage = np.arange(spec.context_tokens) // spec.passage_tokens
        every = []
        for number in range(spec.passages):
            alone = np.broadcast_to(passage == number, (len(self._starts), len(passage)))
            every.append(-token_losses(self._model, self._cut(spec, chosen=alone, drop=True)))
        mixed = np.stack(every) + np.log(self._shares().T)[:, :, None]
        losses: np.ndarray = -np.logaddexp.reduce(mixed, axis=0)
        return losses

    def _shares(self) -> np.ndarray:
        """Weight of each passage, by similarity to the end of the context; (rows, passages)."""
        spec, model = self._spec, self._model
        tokens = self._tokens()
        each = tokens.reshape(-1, spec.passage_tokens)
        texts = [str(model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in each]
        questions = [
            str(model.tokenizer.decode(ids[-_QUESTION:], skip_special_tokens=True))
            for ids in tokens
        ]
        passages = model.search_vectors(texts).reshape(len(tokens), spec.passages, -1)
        cosines = (passages @ model.search_vectors(questions)[:, :, None])[..., 0]
        shares: np.ndarray = np.exp(cosines)
        return shares / shares.sum(axis=1, keepdims=True)

    def _last(self, tokens: int) -> np.ndarray:
        """True for the last tokens of each context, (rows, context tokens)."""
        s = self._spec.context_tokens
        return np.broadcast_to(np.arange(s) >= s - tokens, (len(self._starts), s))

    def _tokens(self) -> np.ndarray:
        """Token ids of each context, (rows, context tokens), int32."""
        s = self._spec.context_tokens
        indices = self._starts[:, None] - s + np.arange(s)
        return np.asarray(self._corpus.tokens[indices], dtype=np.int32)

    @property
    def _whole(self) -> np.ndarray:
        """True for chunks of k tokens; only these expand, so that all rows have equal lengths."""
        whole: np.ndarray = self._lengths == self._k
        return whole

    def _cut(self, spec: WindowSpec, **how: Any) -> Batch:
        return cut_evenly(self._model, self._corpus, self._starts, spec, self._k, **how)

    def _scores_of(self, selection: str) -> np.ndarray:
        """Score of each chunk of k tokens; a rung that joins chunks counts its best one."""
        if selection not in self._scores:
            scores = np.stack(chunk_scores(selection, self._model, self._inputs()))
            group = self._k // self._compressed.chunk_size
            by_passage = scores.reshape(len(scores), self._spec.passages, -1)
            first = np.arange(0, by_passage.shape[2], group)
            best = np.maximum.reduceat(by_passage, first, axis=2)
            self._scores[selection] = best.reshape(len(scores), -1)
        return self._scores[selection]

    @torch.inference_mode()
    def _inputs(self) -> list[PolicyInputs]:
        """What a policy sees of each window."""
        spec, model = self._spec, self._model
        rows = len(self._starts)
        chunk_size = self._compressed.chunk_size
        (encoded,) = policy_vectors(model, self._compressed.to(model.device))
        count = -(-spec.passage_tokens // chunk_size)
        vectors = encoded[:, :count].float().cpu().numpy()
        by_passage = vectors.reshape(rows, spec.passages, count, -1)
        tokens = self._tokens()
        each = tokens.reshape(rows, spec.passages, spec.passage_tokens)
        questions = model.encode_questions(
            [
                str(model.tokenizer.decode(tokens[i, -_QUESTION:], skip_special_tokens=True))
                for i in range(rows)
            ]
        )
        return [
            PolicyInputs(
                [
                    ChunkVectors(by_passage[i, j], each[i, j], chunk_size, model.fingerprint)
                    for j in range(spec.passages)
                ],
                questions[i],
            )
            for i in range(rows)
        ]


def _lengths(tokens: int, chunk_size: int) -> np.ndarray:
    """Tokens of each chunk of a passage."""
    return np.minimum(tokens - np.arange(0, tokens, chunk_size), chunk_size)


def _figures(
    losses: Mapping[Method, np.ndarray],
    positions: Mapping[Method, int],
    context_tokens: int,
    output_tokens: int,
) -> dict[str, Any]:
    methods = list(losses)
    values = {method: each[:, :output_tokens] for method, each in losses.items()}
    recalled = np.array([losses[method][:, output_tokens:].mean() for method in methods])
    means = np.stack([values[method].mean(axis=1) for method in methods], axis=1)
    none, full = methods.index(NONE), methods.index(FULL)
    draws = resample([means])
    gap = draws[:, none] - draws[:, full]
    rows = []
    for i, method in enumerate(methods):
        taken = positions[method]
        average = means.mean(axis=0)
        rows.append(
            {
                **describe(method),
                "positions": taken,
                "rate": context_tokens / taken if taken else None,
                "log_ppl": float(average[i]),
                "log_ppl_interval": interval(draws[:, i]),
                "log_ppl_beside_full": around(draws[:, i] - draws[:, full], float(average[full])),
                "log_ppl_first": float(values[method][:, :_FIRST].mean()),
                "recovery": float((average[none] - average[i]) / (average[none] - average[full])),
                "recovery_interval": interval((draws[:, none] - draws[:, i]) / gap),
                "recall_log_ppl": float(recalled[i]),
                "recall_recovery": float(
                    (recalled[none] - recalled[i]) / (recalled[none] - recalled[full])
                ),
            }
        )
    compared = [
        (i, j)
        for i in range(len(methods))
        for j in range(i + 1, len(methods))
        if positions[methods[i]] == positions[methods[j]]
        or (methods[i].compresses and methods[j] == REPLUG)
    ]
    pairs = []
    if compared:
        first, second = (list(indices) for indices in zip(*compared, strict=True))
        differences = means[:, first] - means[:, second]
        p_values = sign_flip_p_values([differences])
        drawn = draws[:, first] - draws[:, second]
        pairs = [
            {
                "a": methods[i].name,
                "b": methods[j].name,
                "log_ppl": float(differences[:, n].mean()),
                "log_ppl_interval": interval(drawn[:, n]),
                "log_ppl_p": float(p_values[n]),
            }
            for n, (i, j) in enumerate(compared)
        ]
    return {"rows": rows, "pairs": pairs}
