"""Are the chunk embeddings worth their positions? Tables from what results.sh's "sceptic" wrote.

    python benchmarks/sceptic.py OUT

Every question counts the same. What each row reads is listed at the end. V, the value of keeping,
is a score with the rest compressed less the same score with the rest dropped, question by question;
nats saved by keeping are per token of the answer. An interval over passages or articles draws all
questions on one passage or one article together; a dash means that there are too few.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results import DEFAULT, table
from benchmarks.sets import SETS, WITHOUT_ANSWER
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.results import Result, join_results, read_result
from refrag_components.evaluation.answers.summary import summarise
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    GOLD,
    NONE,
    Drop,
    FewerPassages,
    Keep,
    Method,
    SameText,
)
from refrag_components.evaluation.reports.markdown import methods_table

BUDGETS = (0.05, 0.1, 0.25)
ROWS: list[Method] = [
    NONE,
    FULL,
    GOLD,
    COMPRESSED,
    FewerPassages(0.0),
    SameText(DEFAULT, 0.0),
    *(
        row
        for p in BUDGETS
        for row in (Keep(DEFAULT, p), Drop(DEFAULT, p), SameText(DEFAULT, p), FewerPassages(p))
    ),
]
UNITS = {"question": "", "passage": "_passages", "article": "_articles"}
# Score -> its name in tables, factor, digits.
SCORES = {"f1": ("F1", 100, 2), "em": ("EM", 100, 2), "log_ppl": ("nats", 1, 3)}
REFUSED = {"refused": ("refused", 100, 2)}

Figures = dict[str, Any]


def read(out: Path, name: str, setting: Setting) -> list[Result]:
    """Results of one set with every method, from the measurement that contains the set."""
    for folder in sorted(out.glob("sceptic*")):
        found = [read_result(folder, f"{name}.valid", setting, method) for method in ROWS]
        if results := [result for result in found if result is not None]:
            return results
    return []


def figures(results: Sequence[Result], judged: str = "answers") -> Figures:
    """The figures of ``summarise`` for one set."""
    return next(table for table in summarise(results) if table["judged"] == judged)


def pooled(found: Sequence[Sequence[Result]], name: str) -> list[Result]:
    """All questions of several sets, with the methods that all sets have."""
    by_method = [{result.method: result for result in of_set} for of_set in found]
    common = [method for method in ROWS if all(method in of_set for of_set in by_method)]
    return [join_results([of_set[method] for of_set in by_method], name) for method in common]


def rows(stats: Figures) -> Iterator[list[str]]:
    """One row per method."""
    for row in stats["rows"]:
        low, high = (100 * bound for bound in row["f1_interval"])
        yield [
            row["label"],
            f"{100 * row['f1']:.1f} @ {row['context_positions']:.0f}",
            f"{low:.1f} to {high:.1f}",
            f"{100 * row['em']:.1f}",
            f"{row['log_ppl']:.2f}",
            f"{row['positions']:.0f}",
            f"{100 * row['refused']:.1f}",
            str(row["cut"]),
        ]


@dataclass(frozen=True)
class Contrast:
    """A paired difference with figures in every set: its label, and how to find the figures."""

    label: str
    find: Callable[[Figures], Figures | None]
    reverse: bool = False

    def cell(self, stats: Figures, score: str, unit: str) -> str:
        """The difference with its interval; for clusters only the interval."""
        found = self.find(stats)
        bounds = None if found is None else found[f"{score}_interval{UNITS[unit]}"]
        if found is None or bounds is None:
            return "-"
        _, factor, digits = (SCORES | REFUSED)[score]
        sign = -factor if self.reverse else factor
        low, high = sorted(sign * bound for bound in bounds)
        text = f"{low:.{digits}f} to {high:.{digits}f}"
        return text if unit != "question" else f"{sign * found[score]:+.{digits}f} ({text})"

    def side(self, stats: Figures, score: str) -> int:
        """1 or -1 if the interval over passages lies above or below 0, else 0."""
        found = self.find(stats)
        bounds = None if found is None else found[f"{score}_interval_passages"]
        if bounds is None or bounds[0] <= 0 <= bounds[1]:
            return 0
        return 1 if (bounds[0] > 0) != self.reverse else -1


def contrast_tables(
    by_set: dict[str, Figures], contrasts: Sequence[Contrast], score: str, title: str
) -> None:
    """Prints one table over all questions with all intervals, and one set by set."""
    whole = by_set["all"]
    items = [c.find(whole) or {} for c in contrasts]
    body = [
        [
            c.label,
            f"{stats.get('items', whole['items']):,}",
            *(c.cell(whole, score, u) for u in UNITS),
        ]
        for c, stats in zip(contrasts, items, strict=True)
    ]
    table([title, "questions", "by question", "by passage", "by article"], body)
    body = [
        [
            label,
            *(
                "; ".join(c.cell(stats, score, u) for u in ("question", "passage"))
                for c in contrasts
            ),
        ]
        for label, stats in by_set.items()
        if label != "all"
    ]
    sides = [
        [c.side(stats, score) for label, stats in by_set.items() if label != "all"]
        for c in contrasts
    ]
    counts = [f"{signs.count(1)}, {signs.count(-1)}" for signs in sides]
    body.append(["sets: above, below 0, by passage", *counts])
    table([f"{title}, by question; by passage", *(c.label for c in contrasts)], body)


def values_of_keeping(stats: Figures, of: str) -> list[Contrast]:
    """V at every budget that was measured."""

    def find(stats: Figures, label: str) -> Figures | None:
        wanted = (row for row in stats["keeping"] if (row["label"], row["of"]) == (label, of))
        return next(wanted, None)

    labels = [row["label"] for row in stats["keeping"] if row["of"] == of]
    return [Contrast(label, partial(find, label=label)) for label in labels]


def keeping(by_set: dict[str, Figures], of: str) -> None:
    """V of every score."""
    contrasts = values_of_keeping(by_set["all"], of)
    for score, (name, _, _) in SCORES.items():
        contrast_tables(by_set, contrasts, score, f"V, {name}")


def compared(by_set: dict[str, Figures]) -> None:
    """Compressed contexts less plain text in as many positions, and less all text."""
    pairs = [
        (COMPRESSED, FewerPassages(0.0)),
        (COMPRESSED, SameText(DEFAULT, 0.0)),
        *((Keep(DEFAULT, p), SameText(DEFAULT, p)) for p in BUDGETS),
        *((Keep(DEFAULT, p), FULL) for p in BUDGETS),
    ]

    def find(stats: Figures, names: set[str]) -> Figures | None:
        return next((pair for pair in stats["pairs"] if {pair["a"], pair["b"]} == names), None)

    for score in ("f1", "log_ppl"):
        contrasts = []
        for a, b in pairs:
            swapped = b == FULL  # in the figures the full context comes first
            reverse = swapped != (score == "log_ppl")  # fewer nats are more saved
            find_pair = partial(find, names={a.name, b.name})
            contrasts.append(Contrast(f"{a.label} less {b.label}", find_pair, reverse))
        name = SCORES[score][0]
        contrast_tables(by_set, contrasts, score, name if score == "f1" else f"{name} saved")


def by_set_table(by_set: dict[str, Figures]) -> None:
    """F1 at positions, and nats, for every set."""
    labels = [row["label"] for row in by_set["all"]["rows"]]
    for score in ("f1", "log_ppl"):
        body = []
        for label, stats in by_set.items():
            clusters = stats["clusters"]
            counts = f"{stats['items']:,}; {clusters['passages']}; {clusters['articles']}"
            cells = [
                f"{100 * row['f1']:.1f} @ {row['context_positions']:.0f}"
                if score == "f1"
                else f"{row['log_ppl']:.2f}"
                for row in stats["rows"]
            ]
            body.append([label, counts, *cells])
        table([SCORES[score][0], "questions; passages; articles", *labels], body)


def refusals(out: Path, answered: dict[str, Figures]) -> None:
    """Questions without an answer, judged by the share of refusals."""
    for name, label in WITHOUT_ANSWER.items():
        results = read(out, name, Setting())
        if not results:
            print(f"Not measured: {label}\n")
            continue
        stats = figures(results, "refusals")
        wrongly = {row["method"]: row["refused"] for row in answered["all"]["rows"]}
        body = []
        for row in stats["rows"]:
            cells = [f"{100 * row['refused']:.1f} @ {row['context_positions']:.0f}"]
            for unit in ("question", "passage"):
                bounds = row[f"refused_interval{UNITS[unit]}"]
                cells.append(
                    "-" if bounds is None else "{:.1f} to {:.1f}".format(*(100 * b for b in bounds))
                )
            cells += [f"{row['log_ppl']:.2f}", f"{100 * wrongly[row['method']]:.1f}"]
            body.append([row["label"], *cells])
        count = f"{stats['items']} questions on {stats['clusters']['passages']} passages"
        head = ["refused", "by question", "by passage", "nats", "refused although answerable"]
        table([f"{label}: {count}", *head], body)
        contrasts = [Contrast(row["label"], lambda row: row) for row in stats["keeping"]]
        body = [
            [c.label, *(c.cell(row, "refused", unit) for unit in UNITS)]
            for c, row in zip(contrasts, stats["keeping"], strict=True)
        ]
        table(["V, refused", "by question", "by passage", "by article"], body)


def pool(out: Path) -> None:
    """F1 by the number of passages that a search in the pool returns."""
    counts = (5, 10, 20, 40, 80)
    for name, label in SETS.items():
        body = []
        head: list[str] = []
        for count in counts:
            results = read(out, name, Setting("strong", count))
            if not results:
                continue
            stats = figures(results)
            values = values_of_keeping(stats, "all")
            head = [row["label"] for row in stats["rows"]]
            head += [f"V, F1, {value.label}: by question; by passage" for value in values]
            cells = [
                f"{100 * row['f1']:.1f} @ {row['context_positions']:.0f}"
                + (f", {row['cut']} cut" if row["cut"] else "")
                for row in stats["rows"]
            ]
            cells += [
                "; ".join(value.cell(stats, "f1", unit) for unit in ("question", "passage"))
                for value in values
            ]
            body.append([str(count), *cells])
        if body:
            table([f"{label}: passages", *head], body)


def main() -> None:
    """Prints all tables for which there are measurements."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    found = {label: read(out, name, Setting()) for name, label in SETS.items()}
    for label in [label for label, results in found.items() if not results]:
        print(f"Not measured: {label}\n")
        del found[label]
    if found:
        by_set = {label: figures(results) for label, results in found.items()}
        by_set["all"] = figures(pooled(list(found.values()), "all"))
        stats = by_set["all"]
        clusters = stats["clusters"]
        print(f"## Over all {stats['items']:,} questions\n")
        print(
            f"They are on {clusters['passages']:,} passages of {clusters['articles']:,} articles.\n"
        )
        head = ["F1 @ context positions", "by question", "EM", "nats", "positions in all"]
        table(["", *head, "refused", "cut"], list(rows(stats)))
        print("## Value of keeping, all questions\n")
        keeping(by_set, "all")
        print("## Value of keeping if the answer does not occur in what expands\n")
        keeping(by_set, "not shown")
        print("## Compressed less text in as many positions, and compressed less all text\n")
        compared(by_set)
        print("## Set by set\n")
        by_set_table(by_set)
        print("## Questions without an answer\n")
        refusals(out, by_set)
    print("## Passages that a search in the pool finds\n")
    pool(out)
    kinds = {method.kind: type(method) for method in ROWS}
    print("\n".join(methods_table(list(kinds.values()))))


if __name__ == "__main__":
    main()
