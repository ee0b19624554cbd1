"""Are the chunk embeddings worth their positions? Tables from what measure.sh's "sceptic" wrote.

    python experiments/sceptic.py OUT

Every question counts the same. What each row reads stands at the end. V, the value of keeping, is
a score with the rest compressed less the same with the rest dropped, question by question; the
nats are those per token of the answer that keeping saves. An interval over passages or articles
draws all questions on one passage or one article together; a dash where there are too few.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tables import DEFAULT, SETS, table

from refrag_components.evaluation.contexts import Setting
from refrag_components.evaluation.markdown import methods_table
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
from refrag_components.evaluation.results import Result, join_results, read_result
from refrag_components.evaluation.summary import summarise

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
WITHOUT_ANSWER = {"squad2_unans": "SQuAD 2, no answer"}
UNITS = {"question": "", "passage": "_passages", "article": "_articles"}
SCORES = {"f1": ("F1", 100, 2), "em": ("EM", 100, 2), "log_ppl": ("nats", 1, 3)}

Figures = dict[str, Any]


def read(out: Path, name: str, setting: Setting) -> list[Result]:
    """One set by every method that was measured, from the measurement that has it."""
    for folder in sorted(out.glob("sceptic*")):
        found = [read_result(folder, f"{name}.valid", setting, method) for method in ROWS]
        if own := [result for result in found if result is not None]:
            return own
    return []


def figures(results: Sequence[Result], judged: str = "answers") -> Figures:
    """What ``summarise`` says of one set."""
    return next(own for own in summarise(results) if own["judged"] == judged)


def pooled(found: Sequence[Sequence[Result]], name: str) -> list[Result]:
    """All questions of several sets, by the methods that all of them have."""
    common = [m for m in ROWS if all(m in {r.method for r in own} for own in found)]
    by_method = [{result.method: result for result in own} for own in found]
    return [join_results([own[method] for own in by_method], name) for method in common]


def rows(own: Figures) -> Iterator[list[str]]:
    """One row per method."""
    for row in own["rows"]:
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


def difference(own: Figures, score: str, unit: str, *, better_is_less: bool = False) -> str:
    """A mean with its interval over units; of clusters the interval alone."""
    _, factor, digits = SCORES.get(score, ("", 100, 2))
    sign = -factor if better_is_less else factor
    bounds = own[f"{score}_interval{UNITS[unit]}"]
    if bounds is None:
        return "-"
    low, high = sorted(sign * bound for bound in bounds)
    text = f"{low:.{digits}f} to {high:.{digits}f}"
    return text if unit != "question" else f"{sign * own[score]:+.{digits}f} ({text})"


def keeping(by_set: dict[str, Figures], of: str) -> None:
    """V of every score: over all with all intervals, then set by set."""
    for score, (name, _, _) in SCORES.items():
        body = [
            [f"all, {row['label']}", f"{row['items']:,}"]
            + [difference(row, score, unit) for unit in UNITS]
            for row in by_set["all"]["keeping"]
            if row["of"] == of
        ]
        table([f"V, {name}", "questions", "by question", "by passage", "by article"], body)
        labels = [row["label"] for row in by_set["all"]["keeping"] if row["of"] == of]
        body = []
        for label, own in by_set.items():
            values = {row["label"]: row for row in own["keeping"] if row["of"] == of}
            cells = [
                "; ".join(difference(values[p], score, unit) for unit in ("question", "passage"))
                if p in values
                else ""
                for p in labels
            ]
            if any(cells):
                body.append([label, *cells])
        table([f"V, {name}: by question; by passage", *labels], body)


def compared(by_set: dict[str, Figures]) -> None:
    """What is compressed less plain text in as many positions."""
    pairs = [
        (COMPRESSED, FewerPassages(0.0)),
        (COMPRESSED, SameText(DEFAULT, 0.0)),
        *((Keep(DEFAULT, p), SameText(DEFAULT, p)) for p in BUDGETS),
        *((FULL, Keep(DEFAULT, p)) for p in BUDGETS),
    ]
    for score in ("f1", "log_ppl"):
        name = SCORES[score][0]
        body = []
        for label, own in by_set.items():
            found = {(pair["a"], pair["b"]): pair for pair in own["pairs"]}
            for a, b in pairs:
                pair = found.get((a.name, b.name))
                if pair is not None:
                    less = score == "log_ppl"
                    cells = [difference(pair, score, u, better_is_less=less) for u in UNITS]
                    body.append([f"{label}: {a.label} less {b.label}", *cells])
        heading = name if score == "f1" else f"{name} saved"
        table([heading, "by question", "by passage", "by article"], body)


def by_set_table(by_set: dict[str, Figures]) -> None:
    """F1 at positions, and nats, of every set."""
    labels = [row["label"] for row in by_set["all"]["rows"]]
    for score in ("f1", "log_ppl"):
        body = []
        for label, own in by_set.items():
            clusters = own["clusters"]
            counts = f"{own['items']:,}; {clusters['passages']}; {clusters['articles']}"
            cells = [
                f"{100 * row['f1']:.1f} @ {row['context_positions']:.0f}"
                if score == "f1"
                else f"{row['log_ppl']:.2f}"
                for row in own["rows"]
            ]
            body.append([label, counts, *cells])
        table([SCORES[score][0], "questions; passages; articles", *labels], body)


def refusals(out: Path, answered: dict[str, Figures]) -> None:
    """Questions without an answer, judged by the share that is refused."""
    for name, label in WITHOUT_ANSWER.items():
        results = read(out, name, Setting())
        if not results:
            print(f"Not measured: {label}\n")
            continue
        own = figures(results, "refusals")
        wrongly = {row["method"]: row["refused"] for row in answered["all"]["rows"]}
        body = []
        for row in own["rows"]:
            low, high = (100 * bound for bound in row["refused_interval_passages"])
            body.append(
                [
                    row["label"],
                    f"{100 * row['refused']:.1f} ({low:.1f} to {high:.1f})",
                    f"{row['log_ppl']:.2f}",
                    f"{100 * wrongly[row['method']]:.1f}",
                ]
            )
        head = [f"{label} ({own['items']} questions)", "refused, by passage", "nats"]
        table([*head, "refused though there is an answer, all other sets"], body)
        body = [
            [row["label"], *(difference(row, "refused", unit) for unit in UNITS)]
            for row in own["keeping"]
        ]
        table(["V, refused", "by question", "by passage", "by article"], body)


def pool(out: Path) -> None:
    """F1 by the number of passages that a search in the pool finds."""
    counts = (5, 10, 20, 40, 80)
    for name, label in SETS.items():
        body = []
        head: list[str] = []
        for count in counts:
            results = read(out, name, Setting("strong", count))
            if not results:
                continue
            own = figures(results)
            head = [row["label"] for row in own["rows"]]
            cells = [
                f"{100 * row['f1']:.1f} @ {row['context_positions']:.0f}"
                + (f", {row['cut']} cut" if row["cut"] else "")
                for row in own["rows"]
            ]
            body.append([str(count), *cells])
        if body:
            table([f"{label}: passages", *head], body)


def main() -> None:
    """Prints all tables that there is something for."""
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
        own = by_set["all"]
        clusters = own["clusters"]
        print(f"## Over all {own['items']:,} questions\n")
        print(
            f"They are on {clusters['passages']:,} passages of {clusters['articles']:,} articles.\n"
        )
        head = ["F1 @ context positions", "by question", "EM", "nats", "positions in all"]
        table(["", *head, "refused", "cut"], list(rows(own)))
        print("## Value of keeping, all questions\n")
        keeping(by_set, "all")
        print("## Value of keeping where the answer does not stand in what expands\n")
        keeping(by_set, "not shown")
        print("## Compressed less text in as many positions, and all text less compressed\n")
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
