"""The questions that decide whether a checkpoint is worth using, each with its simplest rival.

    python benchmarks/targets.py OURS TWIN [--policy NAME] [--held-out SET...]

OURS is what `results.sh MODEL WORK OUT targets` wrote for a checkpoint, TWIN what
`results.sh TWIN WORK OUT twin` wrote for the plain twin: the same decoder, trained as long on the
same questions, as text alone. Every question counts the same. Brackets hold 95% bootstrap intervals
of differences, question by question, over clusters of all questions on one passage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.results import DEFAULT, table
from benchmarks.sets import SETS
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.results import Result, read_result
from refrag_components.evaluation.methods import (
    FULL,
    GOLD,
    NONE,
    AllCompressed,
    Drop,
    Keep,
    Method,
    SameText,
)
from refrag_components.evaluation.statistics import interval, resample

BUDGETS = (0.05, 0.1, 0.25)
RUNGS = (None, 16, 32)
COUNTS = (1, 2, 5, 10, 20, 40, 80)  # passages
MIXED = ("hybridqa", "ottqa", "tsqa")  # answers that take more than one passage, or a table
_NOT_IN_PASSAGES = ("yes/no", "unanswerable")


@dataclass(frozen=True)
class Measured:
    """Results in the folders of one checkpoint.

    Attributes:
        out: Where results.sh wrote.
        group: Its group of measurements.
    """

    out: Path
    group: str

    def result(self, name: str, method: Method, setting: Setting | None = None) -> Result | None:
        """The result of a method on one set, if it was measured."""
        for folder in sorted(self.out.glob(f"{self.group}-*")):
            found = read_result(folder, f"{name}.valid", setting or Setting(), method)
            if found is not None:
                return found
        return None

    def sets(self, method: Method, setting: Setting | None = None) -> list[str]:
        """Sets on which the method was measured."""
        return [name for name in SETS if self.result(name, method, setting) is not None]


@dataclass(frozen=True)
class Column:
    """One value per question of several sets, with the passages that the questions are on."""

    values: np.ndarray
    clusters: np.ndarray
    sets: np.ndarray

    @property
    def mean(self) -> float:
        """Over all questions that have a value."""
        return float(np.nanmean(self.values))

    def less(self, other: Column) -> Column:
        """The difference, question by question."""
        return Column(self.values - other.values, self.clusters, self.sets)

    def of(self, kept: np.ndarray) -> Column:
        """Some of the questions."""
        return Column(self.values[kept], self.clusters[kept], self.sets[kept])

    def with_interval(self, digits: int = 1) -> str:
        """The mean with its interval, as a difference."""
        there = ~np.isnan(self.values)
        labels = np.unique(self.clusters[there], return_inverse=True)[1]
        low, high = interval(resample([self.values[there][:, None]], [labels])[:, 0])
        return f"{self.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def column(
    measured: Measured,
    method: Method,
    value: Callable[[Result], np.ndarray],
    sets: Sequence[str],
    setting: Setting | None = None,
) -> Column:
    """A value of every question of some sets."""
    values, clusters, names = [], [], []
    for name in sets:
        result = measured.result(name, method, setting)
        if result is None:
            raise FileNotFoundError(f"{method.name} was not measured on {name}")
        values.append(value(result))
        clusters.append(np.array([f"{name} {p}" for p in map(str, result.passages)]))
        names.append(np.full(len(values[-1]), name))
    return Column(np.concatenate(values), np.concatenate(clusters), np.concatenate(names))


def f1(result: Result) -> np.ndarray:
    """In percent; NaN for a question without an answer."""
    return 100 * result.columns["f1"]


def of_columns(name: str) -> Callable[[Result], np.ndarray]:
    """A column of a result."""
    return lambda result: result.columns[name]


def hidden(result: Result) -> np.ndarray:
    """1 where the answer occurs in some passage but not in the text that was read, else 0."""
    unseen = result.columns["shown"] == 0
    return (unseen & ~np.isin(result.kinds, _NOT_IN_PASSAGES)).astype(float)


def compressed_rows(policy: str) -> Iterator[tuple[Method, Method, Method]]:
    """A row with compressed chunks, the same with the rest dropped, and text at its positions."""
    for rung in RUNGS:
        yield AllCompressed(rung), NONE, SameText(policy, 0.0, rung)
        for p in BUDGETS:
            yield Keep(policy, p, rung), Drop(policy, p), SameText(policy, p, rung)


def worth(ours: Measured, twin: Measured, policy: str, held_out: Sequence[str]) -> None:
    """Each compressed row next to what a sceptic would do instead."""
    sets = [name for name in ours.sets(FULL) if name in twin.sets(FULL)]
    full = column(ours, FULL, of_columns("context_tokens"), sets)
    own = column(ours, FULL, f1, sets)
    best = column(twin, FULL, f1, sets)
    print(f"{len(own.values):,} questions of {len(sets)} sets. All text: {own.mean:.1f} F1, the ")
    print(f"plain twin {best.mean:.1f}; the difference is {own.less(best).with_interval()}.\n")
    gold = column(ours, GOLD, f1, sets).mean, column(twin, GOLD, f1, sets).mean
    print(f"Answering passages alone: {gold[0]:.1f}, the twin {gold[1]:.1f}.\n")
    body = []
    for row, drop, text in compressed_rows(policy):
        if ours.result(sets[0], row) is None:
            continue
        scores = column(ours, row, f1, sets)
        taken = column(ours, row, of_columns("context_positions"), sets)
        kept = scores.less(column(ours, drop, f1, sets))
        unseen = column(ours, row, hidden, sets).values > 0
        above = [scores.of(best.sets == s).mean >= best.of(best.sets == s).mean for s in sets]
        outside = ", ".join(
            f"{scores.of(scores.sets == s).mean - best.of(best.sets == s).mean:+.1f}"
            for s in held_out
            if s in sets
        )
        mixed = ", ".join(f"{kept.of(kept.sets == s).mean:+.1f}" for s in MIXED if s in sets)
        body.append(
            [
                row.label,
                f"{scores.mean:.1f} @ {taken.mean:.0f}",
                f"{full.values.sum() / taken.values.sum():.1f}",
                f"{100 * scores.mean / best.mean:.0f} %",
                kept.with_interval(),
                kept.of(unseen).with_interval(),
                mixed,
                "-"
                if ours.result(sets[0], text) is None
                else scores.less(column(ours, text, f1, sets)).with_interval(),
                f"{sum(above)} of {len(sets)}",
                outside,
            ]
        )
    head = ["F1 @ positions", "rate", "of the twin's", "V", "V, answer not shown"]
    head += ["V, " + ", ".join(SETS[name] for name in MIXED), "less text at its positions"]
    head += ["sets not below the twin", "held-out sets, less the twin"]
    table(["context", *head], body)


def many_passages(ours: Measured, twin: Measured, policy: str) -> None:
    """Many retrieved passages in few positions, next to the best that the twin reads."""
    settings = {count: Setting("strong", count) for count in COUNTS}
    sets = [s for s in SETS if any(twin.result(s, FULL, c) for c in settings.values())]
    if not sets:
        print("Not measured: passages from the pool\n")
        return
    read = {n: c for n, c in settings.items() if len(twin.sets(FULL, c)) >= len(sets)}
    means = {n: column(twin, FULL, f1, sets, c).mean for n, c in read.items()}
    print("The twin, by passages read: " + ", ".join(f"{n}: {v:.1f}" for n, v in means.items()))
    count = max(means, key=lambda n: means[n])
    best = column(twin, FULL, f1, sets, settings[count])
    print(f"\nBest at {count} passages ({best.mean:.1f}).\n")
    body = []
    for n, setting in settings.items():
        for row, drop, _ in compressed_rows(policy):
            if any(ours.result(s, row, setting) is None for s in sets):
                continue
            scores = column(ours, row, f1, sets, setting)
            tokens = column(ours, row, of_columns("context_tokens"), sets, setting)
            taken = column(ours, row, of_columns("context_positions"), sets, setting)
            kept = scores.less(column(ours, drop, f1, sets, setting))
            body.append(
                [
                    str(n),
                    row.label,
                    f"{scores.mean:.1f} @ {taken.mean:.0f}",
                    f"{tokens.values.sum() / taken.values.sum():.1f}",
                    kept.with_interval(),
                    scores.less(best).with_interval(),
                ]
            )
    head = ["passages", "context", "F1 @ positions", "rate", "V", "less the twin at its best"]
    table(head, body)


def running_text(out: Path) -> None:
    """What is left of a context when it is continued, and of what is recalled."""
    body = []
    for k in (8, 16, 32):
        found = out / f"targets-text-{k}" / "perplexity.json"
        if not found.is_file():
            continue
        measured = json.loads(found.read_text(encoding="utf-8"))["tables"][0]
        rows = {row["method"]: row for row in measured["rows"]}
        row = rows["compressed"]
        low, high = row["recovery_interval"]
        recall = row.get("recall_recovery")
        body.append(
            [
                f"k={k}",
                f"{row['positions']:.0f}",
                f"{row['recovery']:.3f} ({low:.3f} to {high:.3f})",
                "-" if recall is None else f"{recall:.3f}",
            ]
        )
    if body:
        table(["running text", "positions", "recovery", "of 48 recalled tokens"], body)


def main() -> None:
    """Prints all tables for which there are measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ours", type=Path)
    parser.add_argument("twin", type=Path)
    parser.add_argument("--policy", default=DEFAULT)
    parser.add_argument("--held-out", nargs="*", default=["policyqa", "sqshift_amazon"])
    options = parser.parse_args()
    print("## Questions over 5 passages\n")
    ours, twin = Measured(options.ours, "targets"), Measured(options.twin, "twin")
    worth(ours, twin, options.policy, options.held_out)
    print("## Passages that a search in the pool finds\n")
    many_passages(ours, twin, options.policy)
    print("## Running text\n")
    running_text(options.ours)


if __name__ == "__main__":
    main()
