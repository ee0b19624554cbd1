"""What becomes of every chunk of a prompt, under its budget and the decoder's window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refrag_components.cached import cached_property
from refrag_components.engines.layout import positions_per_chunk
from refrag_components.policies.budget import FractionBudget, PositionBudget, Rest

__all__ = ["STEP_SHARE", "Choice", "Chunks", "choose", "only_choice"]

#: The share of a budget of positions that each step from the top may take, see ``choose``.
STEP_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Choice:
    """What becomes of every chunk of a prompt.

    Attributes:
        expanded: True where a chunk enters as tokens, shape (n_chunks,), bool.
        rungs: Tokens per chunk embedding of each passage, 0 if what does not expand of it is
            dropped; shape (passages,), int64.
        warnings: What did not go as requested, in whole sentences.
    """

    expanded: np.ndarray
    rungs: np.ndarray
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of a prompt's passages, in order.

    Attributes:
        counts: Chunks of each passage, shape (passages,).
        lengths: Tokens of each chunk, shape (n_chunks,).
        rungs: The checkpoint's rungs, ascending; the first is the size of these chunks.
    """

    counts: np.ndarray
    lengths: np.ndarray
    rungs: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of all chunks."""
        return int(self.lengths.sum())

    @cached_property
    def passage(self) -> np.ndarray:
        """Index of each chunk's passage, shape (n_chunks,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def index(self) -> np.ndarray:
        """Index of each chunk in its passage, shape (n_chunks,)."""
        return np.arange(len(self.lengths)) - (self.counts.cumsum() - self.counts)[self.passage]

    @cached_property
    def runs(self) -> np.ndarray:
        """First chunk of each run: the chunks that share an embedding on the coarsest rung.

        A run expands as a whole, so that no rung's group is cut, unless the rest is dropped; with
        one rung it is a chunk.
        """
        return np.flatnonzero(self.index % (self.rungs[-1] // self.rungs[0]) == 0)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """The chunks, those of the best runs first; a run ranks as its best chunk does."""
        by_run = np.maximum.reduceat(scores, self.runs)
        return np.argsort(-self.of_runs(by_run), kind="stable")

    def by_run(self, values: np.ndarray) -> np.ndarray:
        """Sums values of chunks, or counts True ones, over each run; shape (runs,)."""
        sums: np.ndarray = np.add.reduceat(values, self.runs, dtype=np.int64)
        return sums

    def of_runs(self, values: np.ndarray) -> np.ndarray:
        """Gives each chunk its run's value, such as True for a chosen one; shape (n_chunks,)."""
        repeated: np.ndarray = np.repeat(values, np.diff(self.runs, append=len(self.lengths)))
        return repeated

    def every(self, rest: Rest, *, expanded: bool | np.ndarray) -> Choice:
        """The same for every passage: the rest compressed on the finest rung, or dropped."""
        rung = self.rungs[0] if rest == "compress" else 0
        mask = np.broadcast_to(expanded, self.lengths.shape)
        return Choice(mask, np.full(len(self.counts), rung, dtype=np.int64))

    def positions(self, choice: Choice) -> int:
        """Decoder positions that the passages take."""
        group = (choice.rungs // self.rungs[0])[self.passage]
        return int(positions_per_chunk(choice.expanded, self.lengths, group, self.index).sum())

    def embeddings(self, expanded: np.ndarray, rung: int) -> np.ndarray:
        """Chunk embeddings of each passage if its rest is on a rung, shape (passages,)."""
        group = rung // self.rungs[0]
        nothing = np.zeros_like(self.lengths)
        positions = positions_per_chunk(expanded, nothing, group, self.index)
        return np.bincount(self.passage, positions, len(self.counts)).astype(np.int64)


def only_choice(
    chunks: Chunks, budget: FractionBudget | PositionBudget, rest: Rest, limit: int
) -> Choice | None:
    """What becomes of the chunks if the budget leaves no choice, so that no scores are needed.

    Args:
        chunks: The chunks.
        budget: How much may expand, or enter.
        rest: What becomes of chunks that do not expand.
        limit: Decoder positions that the passages may take.

    Returns:
        The choice; None if scores are needed.
    """
    if not len(chunks.lengths):
        return chunks.every(rest, expanded=True)
    if not isinstance(budget, FractionBudget):
        fits = chunks.n_tokens <= min(budget.positions, limit)
        return chunks.every(rest, expanded=True) if fits else None
    most = _to_expand(chunks, budget, rest)
    if 0 < most < len(chunks.runs):
        return None
    choice = chunks.every(rest, expanded=most > 0)
    return choice if chunks.positions(choice) <= limit else None


def choose(
    scores: np.ndarray,
    chunks: Chunks,
    budget: FractionBudget | PositionBudget,
    rest: Rest,
    limit: int,
) -> Choice:
    """Chooses what becomes of every chunk.

    What expands is chosen in runs: single chunks, or with several rungs the chunks that share an
    embedding on the coarsest one. A run has the score of its best chunk.

    A *fraction* expands the best runs; the rest is compressed on the finest rung or dropped (then
    at least one run expands, unless the fraction is 0). If that exceeds ``limit``, fewer expand.

    A number of *positions* is filled from the top, in steps: text, then each rung from the finest
    to the coarsest. A step takes the best that the steps above it left (runs as text, whole
    passages on a rung, a passage ranked by its best chunk) until half of the positions that are
    left (``STEP_SHARE``) are used; or more, as long as the next step can hold all that remains.
    The last step takes all positions that are left, and what it cannot hold is dropped. With the
    rest dropped there is one step, text, and its last run is cut after a chunk. A small budget is
    not an error; it may hold nothing.

    Args:
        scores: One per chunk; higher is better, and the earlier of two equals comes first.
        chunks: The chunks.
        budget: How much may expand, or enter.
        rest: What becomes of chunks that do not expand.
        limit: Decoder positions that the passages may take; with a fraction and the rest
            compressed, at least one per chunk.

    Raises:
        ValueError: If there is not one finite score per chunk.
    """
    if scores.shape != chunks.lengths.shape or not np.isfinite(scores).all():
        msg = (
            f"a policy must give one finite score for each of {len(chunks.lengths)} chunks, "
            f"got shape {scores.shape}"
        )
        raise ValueError(msg)
    if not len(scores):
        return chunks.every(rest, expanded=True)
    by_run = np.maximum.reduceat(scores, chunks.runs)
    best = np.argsort(-by_run, kind="stable")
    if isinstance(budget, FractionBudget):
        count = _to_expand(chunks, budget, rest)
        chosen = chunks.every(rest, expanded=_first(best, count, chunks))
        return (
            chosen
            if chunks.positions(chosen) <= limit
            else _fewer(scores, best, chosen, chunks, rest, limit)
        )
    return _filled(scores, best, chunks, budget.positions, rest, limit)


def _to_expand(chunks: Chunks, budget: FractionBudget, rest: Rest) -> int:
    """How many runs a fraction expands: with the rest dropped something of a short context too."""
    count = budget.count(len(chunks.runs))
    return max(count, 1) if rest == "drop" and budget.fraction else count


def _fewer(
    scores: np.ndarray, best: np.ndarray, wanted: Choice, chunks: Chunks, rest: Rest, limit: int
) -> Choice:
    """What fits the limit, best first, with the rest compressed or dropped."""
    if rest == "drop":
        expanded = _as_text(scores, chunks, limit)
    else:
        nothing = chunks.positions(chunks.every(rest, expanded=False))
        added = chunks.by_run(chunks.lengths) - chunks.by_run(np.ones_like(chunks.lengths))
        expanded = _first(best, _held(added[best].cumsum(), limit - nothing), chunks)
    fitting = chunks.every(rest, expanded=expanded)
    warning = (
        f"{int(fitting.expanded.sum())} chunks were expanded instead of "
        f"{int(wanted.expanded.sum())}: their {chunks.positions(wanted)} positions would not leave "
        "enough of the decoder's window for an answer"
    )
    return Choice(fitting.expanded, fitting.rungs, (warning,))


def _filled(
    scores: np.ndarray, best: np.ndarray, chunks: Chunks, positions: int, rest: Rest, limit: int
) -> Choice:
    """Fills a number of positions from the top, see ``choose``."""
    room = min(positions, limit)
    if rest == "drop":
        choice = chunks.every(rest, expanded=_as_text(scores, chunks, room))
    else:
        tokens = chunks.by_run(chunks.lengths)[best].cumsum()
        compressed = len(scores) - chunks.by_run(np.ones_like(chunks.lengths))[best].cumsum()
        n_text = max(_held(tokens, STEP_SHARE * room), _held(tokens + compressed, room))
        expanded = _first(best, n_text, chunks)
        left = room - int(chunks.lengths[expanded].sum())
        choice = Choice(expanded, _on_rungs(scores, expanded, chunks, left))
    warnings = []
    if limit < positions and not choice.expanded.all():
        warnings.append(
            f"the passages take at most {limit} positions instead of {positions}: more would not "
            "leave enough of the decoder's window for an answer"
        )
    if not chunks.positions(choice):
        warnings.append(f"{room} positions hold nothing of the passages; raise the budget")
    return replace(choice, warnings=tuple(warnings))


def _as_text(scores: np.ndarray, chunks: Chunks, room: int) -> np.ndarray:
    """The chunks of the best runs that fit, run after run: no embedding is left to be cut."""
    order = chunks.best(scores)
    shown = np.zeros(len(order), dtype=bool)
    shown[order[: _held(chunks.lengths[order].cumsum(), room)]] = True
    return shown


def _on_rungs(scores: np.ndarray, expanded: np.ndarray, chunks: Chunks, room: int) -> np.ndarray:
    """The rung of each passage, 0 for those that do not fit."""
    best_chunk = np.full(len(chunks.counts), -np.inf)
    np.maximum.at(best_chunk, chunks.passage, scores)
    waiting = np.argsort(-best_chunk, kind="stable")
    costs = [chunks.embeddings(expanded, rung) for rung in chunks.rungs]
    rungs = np.zeros(len(chunks.counts), dtype=np.int64)
    for step, rung in enumerate(chunks.rungs):
        taken = costs[step][waiting].cumsum()
        count = _held(taken, room)
        if step + 1 < len(costs):
            below = costs[step + 1][waiting]
            with_rest = taken + below.sum() - below.cumsum()
            count = max(_held(taken, STEP_SHARE * room), _held(with_rest, room))
        rungs[waiting[:count]] = rung
        room -= int(taken[count - 1]) if count else 0
        waiting = waiting[count:]
    return rungs


def _held(totals: np.ndarray, room: float) -> int:
    """How many of the first ones fit, given their ascending totals."""
    return int(np.searchsorted(totals, room, side="right"))


def _first(best: np.ndarray, count: int, chunks: Chunks) -> np.ndarray:
    """The chunks of the first runs in an order."""
    chosen = np.zeros(len(best), dtype=bool)
    chosen[best[:count]] = True
    return chunks.of_runs(chosen)
