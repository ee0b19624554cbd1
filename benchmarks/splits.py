"""Answers at equal positions: all as text, or some of them as chunk embeddings in various splits.

    python benchmarks/splits.py QUESTIONS... --model CHECKPOINT --out FOLDER

QUESTIONS are .jsonl or .jsonl.zst files as `refrag eval qa` reads them. A context of n tokens gets
n / rate decoder positions, and every row fills them by the same scores of chunks. Results are kept
in FOLDER row by row, so a stopped run goes on, and more rates or splits can be added later; the
table is written there too, as splits.md. Sets count the same; brackets hold 95% bootstrap intervals
of the difference from text, question by question, over clusters of questions on one passage.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import DEFAULT
from refrag_components.corpus.question_files import load_questions, set_name
from refrag_components.evaluation.answers.comparison import evaluate_questions
from refrag_components.evaluation.answers.results import Result
from refrag_components.evaluation.method import Choices, Method
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.rows import Prompt, Row
from refrag_components.evaluation.statistics import interval, mean_of_sets, resample
from refrag_components.generation.choosing import Choice, Chunks
from refrag_components.modeling import RefragModel

RATES = (4, 8, 12, 16)
TEXT = "text"


@dataclass(frozen=True)
class Split:
    """How a number of positions is divided between text and chunk embeddings.

    Attributes:
        share: Of the positions, what text may take; it takes more if the finest of ``rungs`` holds
            all that the others may show.
        rungs: Rungs that passages may be on, each of them filled as far as half of what is left;
            none drops the rest.
        beside: Whether passages that show text may have embeddings too.
        most: How many passages may have embeddings, the best ones; None for all.
        whole: Whether runs expand as wholes. Otherwise the last one is cut after a chunk, which
            only the finest rung allows.
    """

    share: float
    rungs: tuple[int, ...] = ()
    beside: bool = True
    most: int | None = None
    whole: bool = True

    def choice(self, scores: np.ndarray, chunks: Chunks, positions: int) -> Choice:
        """What becomes of every chunk: the most text that this split allows, then the rungs.

        Args:
            scores: One per chunk; higher is better.
            chunks: The chunks.
            positions: Decoder positions that they may take.
        """
        order = chunks.best(scores)
        ends = np.arange(1, len(order) + 1)
        if self.whole:
            runs = np.argsort(-np.maximum.reduceat(scores, chunks.runs), kind="stable")
            ends = chunks.by_run(np.ones_like(chunks.lengths))[runs].cumsum()
        expanded = np.zeros(len(scores), dtype=bool)
        for end in ends[::-1]:
            candidate = np.isin(np.arange(len(order)), order[:end])
            taken = int(chunks.lengths[candidate].sum())
            if taken <= self.share * positions or self._fits(scores, candidate, chunks, positions):
                expanded = candidate
                break
        left = positions - int(chunks.lengths[expanded].sum())
        return Choice(expanded, self._rungs(scores, expanded, chunks, left))

    def _fits(
        self, scores: np.ndarray, expanded: np.ndarray, chunks: Chunks, positions: int
    ) -> bool:
        """Whether the finest rung holds all passages that may have embeddings."""
        if not self.rungs:
            return False
        rest = chunks.embeddings(expanded, self.rungs[0])
        kept = rest[self._may_have_embeddings(scores, expanded, chunks)].sum()
        return bool(chunks.lengths[expanded].sum() + kept <= positions)

    def _may_have_embeddings(
        self, scores: np.ndarray, expanded: np.ndarray, chunks: Chunks
    ) -> np.ndarray:
        """Passages that may have embeddings, the best first."""
        best = np.full(len(chunks.counts), -np.inf)
        np.maximum.at(best, chunks.passage, scores)
        order = np.argsort(-best, kind="stable")
        if not self.beside:
            order = order[~np.isin(order, chunks.passage[expanded])]
        return order[: self.most]

    def _rungs(
        self, scores: np.ndarray, expanded: np.ndarray, chunks: Chunks, room: int
    ) -> np.ndarray:
        rungs = np.zeros(len(chunks.counts), dtype=np.int64)
        waiting = self._may_have_embeddings(scores, expanded, chunks)
        costs = [chunks.embeddings(expanded, rung) for rung in self.rungs]
        for step, rung in enumerate(self.rungs):
            taken = costs[step][waiting].cumsum()
            fits = taken <= room
            if step + 1 < len(costs):
                below = costs[step + 1][waiting]
                fits = (taken <= room / 2) | (taken + below.sum() - below.cumsum() <= room)
            count = int(np.flatnonzero(fits)[-1]) + 1 if fits.any() else 0
            rungs[waiting[:count]] = rung
            room -= int(taken[count - 1]) if count else 0
            waiting = waiting[count:]
        return rungs


def splits_of(rungs: tuple[int, ...]) -> dict[str, Split]:
    """What is compared with text alone, by name, and text alone.

    Args:
        rungs: The checkpoint's rungs, ascending.
    """
    finest, coarsest = rungs[0], rungs[-1]
    return {
        TEXT: Split(1.0, whole=False),
        "text, whole runs": Split(1.0),
        "text .5": Split(0.5, rungs),
        f"best passage k={finest}": Split(0.0, (finest,), most=1, whole=False),
        "text .7": Split(0.7, rungs),
        f"rest k={coarsest}": Split(0.0, (coarsest,)),
        f"passages without text k={finest}": Split(0.5, (finest,), beside=False, whole=False),
        "text .9": Split(0.9, rungs),
        "text .6": Split(0.6, rungs),
        "text .8": Split(0.8, rungs),
    }


@dataclass(frozen=True)
class SplitRow(Method):
    """A row in which a context of n tokens has n / rate positions, divided in one way.

    Attributes:
        title: Name of the split.
        split: The split.
        rate: Tokens of the context per position.
    """

    kind = "split"
    reads = "as much as a share of the context's tokens in positions holds, divided in one way"
    compresses = True
    fraction = None
    selection: str
    title: str
    split: Split
    rate: float

    @property
    def name(self) -> str:
        """The selection, the rate and the split."""
        return f"{self.selection}-{self.rate:g}-{self.title.replace(',', '').replace(' ', '-')}"

    @property
    def label(self) -> str:
        """The split."""
        return self.title

    @classmethod
    def each(cls, choices: Choices) -> list[SplitRow]:
        """None; this benchmark makes its rows itself."""
        return []

    def row(self, prompt: Prompt) -> Row:
        """The chunks as the split divides the positions."""
        scores, chunks = prompt.scores[self.selection], prompt.chunks
        positions = min(int(prompt.context_tokens / self.rate), prompt.limit)
        return prompt.laid_out(self.split.choice(scores, chunks, positions))


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of the table: a row for each rate and split."""
    names = list(dict.fromkeys(result.set for result in results))
    found = {(result.set, result.method): result for result in results}
    rows = [m for m in dict.fromkeys(r.method for r in results) if isinstance(m, SplitRow)]
    text = {row.rate: row for row in rows if row.title == TEXT}
    clusters = [found[name, rows[0]].clusters("passage") for name in names]

    def columns(metric: str, row: SplitRow) -> list[np.ndarray]:
        scale = 100.0 if metric == "f1" else 1.0
        return [scale * found[name, row].columns[metric][:, None] for name in names]

    def mean(metric: str, row: SplitRow) -> float:
        return float(mean_of_sets(columns(metric, row))[0])

    def beside_text(metric: str, row: SplitRow, digits: int) -> str:
        pairs = zip(columns(metric, row), columns(metric, text[row.rate]), strict=True)
        differences = [ours - theirs for ours, theirs in pairs]
        low, high = interval(resample(differences, clusters)[:, 0])
        value = float(mean_of_sets(differences)[0])
        return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"

    body = [
        [
            f"{row.rate:g}",
            row.title,
            f"{mean('f1', row):.1f} @ {mean('context_positions', row):.0f}",
            "-" if row.title == TEXT else beside_text("f1", row, 1),
            f"{mean('log_ppl', row):.3f}",
            "-" if row.title == TEXT else beside_text("log_ppl", row, 3),
            f"{100 * mean('shown', row):.0f}",
        ]
        for row in sorted(rows, key=lambda row: row.rate)
    ]
    questions = sum(len(found[name, rows[0]].ids) for name in names)
    yield f"{questions:,} questions of {', '.join(names)}."
    yield ""
    head = ["rate", "split", "F1 @ positions", "less text", "nats", "less text's", "shown, %"]
    yield from markdown_table(head, body)


def main() -> None:
    """Answers all questions by every split at every rate, and writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device")
    parser.add_argument("--items", type=int, default=25, help="questions per set")
    parser.add_argument("--policy", default=DEFAULT)
    parser.add_argument("--rate", type=float, action="append", help="by default 4, 8, 12 and 16")
    parser.add_argument("--split", action="append", help="names of splits; by default all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = RefragModel.from_pretrained(options.model, device=options.device)
    named = splits_of(model.config.rungs)
    wanted = dict.fromkeys([TEXT, *(options.split or named)])
    rows = [
        SplitRow(options.policy, title, named[title], rate)
        for title in wanted
        for rate in options.rate or RATES
    ]
    sets = {set_name(path): load_questions(path, items=options.items) for path in options.questions}
    results = evaluate_questions(model, sets, options.out, methods=rows)
    lines = list(table(results))
    print("\n".join(lines))
    (options.out / "splits.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
