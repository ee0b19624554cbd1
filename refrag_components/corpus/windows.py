"""Windows of running text: a context, compressed or not, and the tokens that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refrag_components.corpus.batch import Batch
from refrag_components.corpus.rows import Row, ShownPassage, build_batch
from refrag_components.corpus.tokenised import TokenisedCorpus

__all__ = ["RECALL_CUE", "RECALL_SPAN", "WindowSpec", "cut_windows"]

#: Tokens that tell which span of the context is to be recalled, and the span itself.
RECALL_CUE, RECALL_SPAN = 16, 48

_TEXT_EVERY = 4  # token of a context that is text throughout is compared with a teacher


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How the windows of one batch are cut.

    Attributes:
        passages: Passages that the context consists of.
        passage_tokens: Tokens per passage. If they are not a multiple of the rung, the last chunk
            is shorter.
        output_tokens: Tokens after the context whose loss counts (o).
        expanded: Fraction p of the context that enters as tokens: nothing, everything or random
            runs, at least one.
        run: Tokens that expand together; a multiple of every rung if p is between 0 and 1.
        recalled: Spans of the context to recall after the output. Each is asked for by a separator
            and its 16 tokens before; then 48 tokens count.
        shuffled: Fraction of the windows whose passages are in random order, as retrieved ones are.
        shown: Whether the context is shown at all. Spans are recalled in any case.
        taught: Whether a teacher reads the full text.
    """

    passages: int
    passage_tokens: int
    output_tokens: int
    expanded: float = 0.0
    run: int = 32
    recalled: int = 0
    shuffled: float = 0.0
    shown: bool = True
    taught: bool = False

    def __post_init__(self) -> None:
        """Checks that there is something to recall."""
        if self.recalled and self.context_tokens < RECALL_CUE + RECALL_SPAN:
            msg = (
                f"a span to recall takes {RECALL_CUE + RECALL_SPAN} tokens, the context has "
                f"{self.context_tokens}"
            )
            raise ValueError(msg)

    @property
    def context_tokens(self) -> int:
        """Tokens of the context (s)."""
        return self.passages * self.passage_tokens

    @property
    def tail_tokens(self) -> int:
        """Tokens after the context, output and recalled spans together."""
        return self.output_tokens + self.recalled * (1 + RECALL_CUE + RECALL_SPAN)

    @property
    def span(self) -> int:
        """Tokens of running text that a window covers."""
        return self.context_tokens + self.output_tokens


def cut_windows(
    corpus: TokenisedCorpus,
    starts: np.ndarray,
    spec: WindowSpec,
    *,
    chunk_size: int,
    rungs: Sequence[int],
    own_rungs: Sequence[int],
    separator: int,
    rng: np.random.Generator,
    chosen: np.ndarray | None = None,
    weight: float = 1.0,
    name: str = "",
) -> Batch:
    """Cuts one batch of windows out of a corpus.

    Every row is a separator, the context, the output and the spans to recall.

    Args:
        corpus: Tokenised text.
        starts: First token of each window, shape (rows,); ``spec.span`` tokens must follow.
        spec: Shape of the windows.
        chunk_size: Tokens per chunk (k).
        rungs: All rungs of the checkpoint.
        own_rungs: The rung of each window, (rows,); 0 drops what does not expand.
        separator: Token id that comes first.
        rng: Draws orders, runs and spans; the spans do not depend on what else is drawn.
        chosen: True for tokens that expand, in place of random runs; the same for all tokens under
            a chunk embedding; (rows, context tokens), bool. None draws them.
        weight: Of the batch in the loss of its step.
        name: Kind of the batch, for the training log.
    """
    rows = []
    spans = rng.spawn(1)[0]
    for i, (start, rung) in enumerate(zip(starts.tolist(), own_rungs, strict=True)):
        text = np.asarray(corpus.tokens[start : start + spec.span], dtype=np.int64)
        context = text[: spec.context_tokens].reshape(spec.passages, spec.passage_tokens)
        if spec.shuffled and rng.random() < spec.shuffled:
            context = rng.permutation(context)
        expanded = _expanded(spec, rng) if chosen is None else chosen[i].reshape(context.shape)
        tail, counted = _tail(context.ravel(), text[spec.context_tokens :], spec, separator, spans)
        passages = [
            ShownPassage(ids, by_token, rung)
            for ids, by_token in zip(context, expanded, strict=True)
            if spec.shown
        ]
        rows.append(
            Row(
                parts=[np.array([separator]), *passages],
                tail=tail,
                counted=counted,
                imitated=spec.output_tokens if spec.taught else None,
                every=_TEXT_EVERY if spec.expanded == 1 else 1,
            )
        )
    return build_batch(rows, chunk_size=chunk_size, rungs=rungs, weight=weight, name=name)


def _expanded(spec: WindowSpec, rng: np.random.Generator) -> np.ndarray:
    """Which tokens expand, (passages, tokens per passage)."""
    shape = (spec.passages, spec.passage_tokens)
    if spec.expanded in (0.0, 1.0):
        return np.full(shape, bool(spec.expanded))
    whole = spec.passage_tokens // spec.run
    wanted = max(round(spec.expanded * spec.context_tokens / spec.run), 1)
    picked = np.zeros(spec.passages * whole, dtype=bool)
    picked[rng.permutation(len(picked))[:wanted]] = True
    expanded = np.zeros(shape, dtype=bool)
    runs = picked.reshape(spec.passages, whole).repeat(spec.run, axis=1)
    expanded[:, : whole * spec.run] = runs
    return expanded


def _tail(
    context: np.ndarray,
    output: np.ndarray,
    spec: WindowSpec,
    separator: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The output and the spans to recall, and which of these tokens count."""
    tokens, counted = [output], [np.ones(len(output), dtype=bool)]
    for _ in range(spec.recalled):
        at = int(rng.integers(len(context) - RECALL_CUE - RECALL_SPAN + 1))
        tokens += [np.array([separator]), context[at : at + RECALL_CUE + RECALL_SPAN]]
        counted += [np.zeros(1 + RECALL_CUE, dtype=bool), np.ones(RECALL_SPAN, dtype=bool)]
    return np.concatenate(tokens), np.concatenate(counted)
