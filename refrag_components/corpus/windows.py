"""Windows of running text: a context, compressed or not, and the tokens that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refrag_components.corpus.batch import IGNORED, Batch
from refrag_components.corpus.cloze import ClozeForm, ask_for_gaps
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
        output_tokens: Tokens after the context whose loss counts (o); may be 0.
        expanded: Fraction p of the context that enters as tokens: nothing, everything or random
            runs, at least one.
        run: Tokens that expand together; a multiple of every rung if p is between 0 and 1.
        recalled: Spans of the context to recall after the output. Each is asked for by a separator
            and its 16 tokens before; then 48 tokens count.
        cloze_tokens: Tokens of the cloze questions after everything else, at most; 0 for none.
        shuffled: Fraction of the windows whose passages are in random order, as retrieved ones are.
        shown: Whether the context is shown at all. Spans are recalled in any case.
        taught: Whether a teacher reads the full text, to predict the output or, where there are
            questions, their answers.
    """

    passages: int
    passage_tokens: int
    output_tokens: int
    expanded: float = 0.0
    run: int = 32
    recalled: int = 0
    cloze_tokens: int = 0
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
        """Tokens after the context, at most."""
        spans = self.recalled * (1 + RECALL_CUE + RECALL_SPAN)
        return self.output_tokens + spans + (self.cloze_tokens + 1 if self.cloze_tokens else 0)

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
    row_rungs: Sequence[int],
    separator: int,
    rng: np.random.Generator,
    chosen: np.ndarray | None = None,
    form: ClozeForm | None = None,
    weight: float = 1.0,
    name: str = "",
) -> Batch:
    """Cuts one batch of windows out of a corpus.

    Every row is a separator, the context, the output, the spans to recall and the questions.

    Args:
        corpus: Tokenised text.
        starts: First token of each window, shape (rows,); ``spec.span`` tokens must follow.
        spec: Shape of the windows.
        chunk_size: Tokens per chunk (k).
        rungs: All rungs of the checkpoint.
        row_rungs: The rung of each window, (rows,); 0 drops what does not expand.
        separator: Token id that comes first.
        rng: Draws orders, runs and spans; the spans do not depend on what else is drawn.
        chosen: True for tokens that expand, in place of random runs; the same for all tokens under
            a chunk embedding; (rows, context tokens), bool. None draws them.
        form: What questions are made with; needed if ``spec.cloze_tokens``.
        weight: Of the batch in the loss of its step.
        name: Kind of the batch, for the training log.
    """
    rows = []
    spans = rng.spawn(1)[0]
    for i, (start, rung) in enumerate(zip(starts.tolist(), row_rungs, strict=True)):
        text = np.asarray(corpus.tokens[start : start + spec.span], dtype=np.int64)
        context = text[: spec.context_tokens].reshape(spec.passages, spec.passage_tokens)
        if spec.shuffled and rng.random() < spec.shuffled:
            context = rng.permutation(context)
        expanded = _expanded(spec, rng) if chosen is None else chosen[i].reshape(context.shape)
        tails = [
            (text[spec.context_tokens :], np.ones(spec.output_tokens, dtype=bool)),
            *(_recall(context.ravel(), separator, spans) for _ in range(spec.recalled)),
        ]
        if spec.cloze_tokens:
            assert form is not None
            tails.append(_ask(context.ravel(), spec, separator, form, spans))
        tail, counted = (np.concatenate(parts) for parts in zip(*tails, strict=True))
        passages = [
            ShownPassage(ids, by_token, rung)
            for ids, by_token in zip(context, expanded, strict=True)
            if spec.shown
        ]
        compared, every = spec.output_tokens, _TEXT_EVERY if spec.expanded == 1 else 1
        if spec.cloze_tokens:
            compared, every = len(tail), 0
        rows.append(
            Row(
                parts=[np.array([separator]), *passages],
                tail=tail,
                counted=counted,
                imitated=compared if spec.taught else None,
                every=every,
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


def _recall(
    context: np.ndarray, separator: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A span of the context with its cue, and which of these tokens count."""
    at = int(rng.integers(len(context) - RECALL_CUE - RECALL_SPAN + 1))
    tokens = np.append(separator, context[at : at + RECALL_CUE + RECALL_SPAN])
    return tokens, np.arange(len(tokens)) > RECALL_CUE


def _ask(
    context: np.ndarray,
    spec: WindowSpec,
    separator: int,
    form: ClozeForm,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Questions about the context with their answers, and which of these tokens count.

    The separator tells a chat about the text from text that goes on.
    """
    ids, labels = ask_for_gaps(context[None], spec.passage_tokens, spec.cloze_tokens, form, rng)
    answers = labels[0] != IGNORED
    used = int(np.flatnonzero(answers).max(initial=-1)) + 1  # some text has nothing to ask for
    return np.append(separator, ids[0, :used]), np.append(False, answers[:used])
