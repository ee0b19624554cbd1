"""Tables for docs/results.md, docs/policies.md and the model card, from what results.sh wrote.

    python benchmarks/results.py OUT [TABLE...] [--by passage]

In rows over several sets every question counts the same. Brackets hold 95% bootstrap intervals,
over questions or, with --by, over clusters of all questions on one passage or one article; bold
means better than fewer passages in as many positions, with an interval of the paired difference
that excludes 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np

from benchmarks.sets import GROUPS, SETS
from refrag_components.corpus.question_files import KINDS
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.results import (
    Cluster,
    Result,
    join_results,
    read_result,
    result_path,
)
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    FewerPassages,
    Keep,
    LastTokens,
    Method,
    default_methods,
)
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.selections import SELECTIONS
from refrag_components.evaluation.statistics import interval, resample
from refrag_components.modeling.policy_network import NETWORKS

POOLED = {
    "all": list(SETS),
    "without yes/no": [name for name, label in SETS.items() if "(yes/no)" not in label],
}
DEFAULT = "learned-query"
BUDGETS = (0.05, 0.1, 0.25, 0.5)
MAIN = [NONE, FULL, COMPRESSED, Keep(DEFAULT, 0.1), Keep(DEFAULT, 0.25)]
FEWER = [FewerPassages(p) for p in (0.0, 0.1, 0.25)]
CHOICES = default_methods((*SELECTIONS, *NETWORKS), BUDGETS, kinds=[Keep.kind])
PLAIN = [kind(p) for kind in (LastTokens, FewerPassages) for p in BUDGETS]

Cells = Sequence[str]
Difference = tuple[float, float, float]


@cache
def read(folder: Path, name: str, setting: Setting, method: Method) -> Result:
    """The result of one method on one set."""
    found = read_result(folder, name, setting, method)
    if found is None:
        raise FileNotFoundError(None, None, str(result_path(folder, name, setting, method)))
    return found


class Answers:
    """The results of one measurement of ``refrag eval qa``, question by question."""

    #: What intervals are drawn over: clusters of questions, or None for questions.
    by: ClassVar[Cluster | None] = None

    def __init__(self, out: Path, name: str = "qa", setting: Setting | None = None) -> None:
        self._out, self._name, self._setting = out, name, setting or Setting()

    def result(self, sets: Sequence[str], method: Method) -> Result:
        """The result of a method on the questions of some sets."""
        results = [
            read(self._out / f"{self._name}-{name}", f"{name}.valid", self._setting, method)
            for name in sets
        ]
        return join_results(results, " and ".join(sets))

    def values(self, sets: Sequence[str], methods: Sequence[Method], column: str) -> np.ndarray:
        """F1 in percent, other columns unchanged; shape (questions of all sets, methods)."""
        columns = [self.result(sets, method).columns[column] for method in methods]
        return (100 if column == "f1" else 1) * np.stack(columns, axis=1)

    def draws(self, sets: Sequence[str], methods: Sequence[Method], column: str) -> np.ndarray:
        """Bootstrap means of ``values``, shape (samples, methods)."""
        clusters = None
        if self.by is not None:
            clusters = [self.result(sets, methods[0]).clusters(self.by)]
        return resample([self.values(sets, methods, column)], clusters)

    def differences(
        self,
        sets: Sequence[str],
        methods: Sequence[Method],
        column: str,
        pairs: Sequence[tuple[int, int]],
    ) -> list[Difference]:
        """Mean and interval of the paired difference, for each pair of methods."""
        draws = self.draws(sets, methods, column)
        means = self.values(sets, methods, column).mean(axis=0)
        return [(means[a] - means[b], *interval(draws[:, a] - draws[:, b])) for a, b in pairs]


def curves(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Rows that differ only in p, by what they have in common, in order."""
    found: dict[str, list[Method]] = {}
    for method in methods:
        name = f"{method.curve} as plain text" if method.selection is None else f"`{method.curve}`"
        found.setdefault(name, []).append(method)
    return found


def at(methods: Sequence[Method], p: float) -> list[Method]:
    """Those of some rows that expand a fraction p, or take as many positions."""
    return [method for method in methods if method.fraction == p]


def heads(methods: Sequence[Method]) -> list[str]:
    """The names of rows as columns; short where the default policy chooses."""
    names = []
    for before, method in pairwise([NONE, *methods]):
        p = "" if method.fraction is None else f"p={method.fraction:g}".replace("0.", ".")
        if isinstance(method, FewerPassages):
            names.append(
                f"as {p}" if isinstance(before, FewerPassages) else f"{method.curve}, as {p}"
            )
        elif method == FULL:
            names.append("all text")  # as the page calls it
        elif method.selection in (None, DEFAULT):
            names.append(p or method.label)
        else:
            names.append(f"{p}, {method.selection}")
    return names


def table(head: Cells, rows: Sequence[Cells]) -> None:
    """Prints a table whose first column is text."""
    print("\n".join(markdown_table(head, rows)), end="\n\n")


def groups() -> dict[str, list[str]]:
    """Every set separately, then all of them together."""
    return {label: [name] for name, label in SETS.items()} | {"all": POOLED["all"]}


def answers_table(out: Path, column: str, digits: int) -> None:
    """One row per set: fixed rows, the default policy, fewer passages at equal positions."""
    answers, methods = Answers(out), [*MAIN, *FEWER]
    # Each row with chunk embeddings, and fewer passages in as many positions.
    pairs = [
        (methods.index(row), methods.index(FewerPassages(row.fraction or 0.0)))
        for row in MAIN
        if row.compresses
    ]
    rows = []
    for label, sets in groups().items():
        values = answers.values(sets, methods, column)
        cells = [f"{mean:.{digits}f}" for mean in values.mean(axis=0)]
        found = answers.differences(sets, methods, column, pairs)
        for (column_index, _), (_, low, high) in zip(pairs, found, strict=True):
            if low > 0 if column == "f1" else high < 0:
                cells[column_index] = f"**{cells[column_index]}**"
        rows.append([label, f"{len(values):,}", *cells])
    if column == "f1":
        positions = answers.values(["squad"], methods, "positions").mean(axis=0)
        rows.append(["decoder positions, SQuAD", "", *(f"{mean:.0f}" for mean in positions)])
    table(["set", "questions", *heads(methods)], rows)


def f1(out: Path) -> None:
    """F1, and decoder positions on SQuAD."""
    answers_table(out, "f1", 1)


def nats(out: Path) -> None:
    """Log-perplexity of the right answer."""
    answers_table(out, "log_ppl", 3)


def shares(out: Path) -> None:
    """F1 as a share of the F1 of all text."""
    answers = Answers(out)
    compared = [*MAIN[2:], *FEWER[1:]]
    rows = []
    for label, sets in (groups() | POOLED).items():
        methods = [FULL, *compared]
        draws = answers.draws(sets, methods, "f1")
        means = answers.values(sets, methods, "f1").mean(axis=0)
        cells = [label]
        for i in range(1, len(means)):
            low, high = interval(draws[:, i] / draws[:, 0])
            cells.append(
                f"{100 * means[i] / means[0]:.{1 if label == 'all' else 0}f} % "
                f"({100 * low:.0f}-{100 * high:.0f})"
            )
        rows.append(cells)
    table(["set", *heads(compared)], rows)


def choices(out: Path) -> None:
    """F1 by selection: all questions at every budget, then set by set."""
    answers = Answers(out)
    rows = []
    for label, methods in curves([*CHOICES, *PLAIN]).items():
        means = answers.values(POOLED["all"], methods, "f1").mean(axis=0)
        rows.append([label, *(f"{mean:.1f}" for mean in means)])
    table(["all sets", *(f"p={p:g}" for p in BUDGETS)], rows)
    for p in (0.1, 0.25):
        rows, shown = [], curves(at(CHOICES, p))
        methods = [method for methods in shown.values() for method in methods]
        for label, sets in groups().items():
            means = answers.values(sets, methods, "f1").mean(axis=0)
            rows.append([label, *(f"{mean:.1f}" for mean in means)])
        table([f"p={p:g}", *shown], rows)


def compared(out: Path) -> None:
    """The default policy less other selections, paired; on how many sets it is better, worse."""
    answers = Answers(out)
    others = [
        method
        for method in (*CHOICES, *PLAIN)
        if isinstance(method, FewerPassages)
        or (method.selection in SELECTIONS and method.selection != "perplexity-ascending")
    ]  # as wide as a page
    for column, digits in (("f1", 1), ("log_ppl", 3)):
        for p in (0.1, 0.25):
            methods = [Keep(DEFAULT, p), *at(others, p)]
            pairs = [(0, i) for i in range(1, len(methods))]
            found = {
                label: answers.differences(sets, methods, column, pairs)
                for label, sets in groups().items()
            }
            rows = [
                [
                    label,
                    *(
                        f"{mean:+.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
                        for mean, low, high in of_set
                    ),
                ]
                for label, of_set in found.items()
            ]
            of_sets = np.array([found[label] for label in SETS.values()])
            more, less = (of_sets[..., 1] > 0).sum(axis=0), (of_sets[..., 2] < 0).sum(axis=0)
            counts = [f"{a}, {b}" for a, b in zip(more, less, strict=True)]
            rows.append(["sets: more, less", *counts])
            table([f"{column}, p={p:g}", *curves(methods[1:])], rows)


def kinds(out: Path) -> None:
    """F1 by kind of answer."""
    answers, rows = Answers(out), []
    found = np.array(answers.result(list(SETS), FULL).kinds)
    values = answers.values(list(SETS), MAIN, "f1")
    for kind in KINDS:
        of_kind = values[found == kind]
        if not len(of_kind):
            continue
        means = of_kind.mean(axis=0)
        rows.append([kind, f"{len(of_kind):,}", *(f"{mean:.1f}" for mean in means)])
    table(["answer", "questions", *heads(MAIN)], rows)


def no_answer(out: Path) -> None:
    """How often the model says that there is no answer although there is one, in percent."""
    answers, methods = Answers(out), [MAIN[1], MAIN[2], MAIN[4]]
    rows = []
    for name, label in SETS.items():
        said = answers.values([name], methods, "refused").mean(axis=0)
        rows.append([label, *(f"{100 * mean:.1f}" for mean in said)])
    table(["set", *heads(methods)], rows)


def more(out: Path) -> None:
    """F1 by the expanded fraction."""
    answers, rows = Answers(out), []
    some = [Keep(DEFAULT, p) for p in BUDGETS]
    fewer = [FewerPassages(p) for p in (BUDGETS[0], BUDGETS[-1])]
    methods = [FULL, COMPRESSED, *some, *fewer]
    for label, sets in groups().items():
        means = answers.values(sets, methods, "f1").mean(axis=0)
        rows.append([label, *(f"{mean:.1f}" for mean in means)])
    table(["set", *heads(methods)], rows)


def chunks_of_8(out: Path) -> None:
    """F1 at k = 8."""
    answers, rows = Answers(out, "k8"), []
    methods = [*MAIN[1:], *FEWER]
    for name in GROUPS["k8"]:
        means = answers.values([name], methods, "f1").mean(axis=0)
        rows.append([SETS[name], *(f"{mean:.1f}" for mean in means)])
    positions = answers.values(["squad"], methods, "positions").mean(axis=0)
    rows.append(["decoder positions, SQuAD", *(f"{mean:.0f}" for mean in positions)])
    table(["set", *heads(methods)], rows)


def searched(out: Path) -> None:
    """F1 with passages from a search, also with late-interaction."""
    methods = [*MAIN[1:], *FEWER[1:], *(Keep("late-interaction", p) for p in (0.1, 0.25))]
    for name in GROUPS["searched"]:
        rows = []
        for retrieval in ("strong", "weak"):
            for count in (2, 5, 10, 20):
                answers = Answers(out, "searched", Setting(retrieval, count))
                means = answers.values([name], methods, "f1").mean(axis=0)
                full, tenth = answers.values([name], [MAIN[1], MAIN[3]], "positions").mean(axis=0)
                cells = [f"{mean:.1f}" for mean in means]
                rows.append([str(count), retrieval, *cells, f"{full:,.0f}", f"{tenth:,.0f}"])
        print(SETS[name])
        head = ["passages", "retrieval", *heads(methods), "positions of all text", "of p=.1"]
        table(head, rows)


def recovery(out: Path) -> None:
    """Running text."""
    rows = []
    for k in (4, 8):
        content: Any = json.loads((out / f"recovery-{k}" / "perplexity.json").read_text())
        in_order, shuffled = (found["rows"] for found in content["tables"])
        for a, b in zip(in_order, shuffled, strict=True):
            cells = [str(k), a["label"], f"{a['positions']:.0f}", f"{a['log_ppl_first']:.3f}"]
            for row in (a, b):
                low, high = row["recovery_interval"]
                cells += [f"{row['log_ppl']:.3f}", f"{row['recovery']:.3f} ({low:.3f}-{high:.3f})"]
            rows.append(cells)
        for found in content["tables"]:
            names = ("compressed", "last-0")
            pair = next(pair for pair in found["pairs"] if (pair["a"], pair["b"]) == names)
            low, high = pair["log_ppl_interval"]
            print(f"k={k}, {found['order']}: p=0 less the last tokens, nats:", end=" ")
            print(f"{pair['log_ppl']:+.3f} ({low:.3f} to {high:.3f})")
    print()
    head = ["positions", "first 16", "log-ppl", "recovery", "shuffled: log-ppl", "recovery"]
    table(["k", "context", *head], rows)


TABLES: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        f1,
        shares,
        nats,
        choices,
        compared,
        kinds,
        no_answer,
        more,
        chunks_of_8,
        searched,
        recovery,
    )
}


def main() -> None:
    """Prints the named tables, all by default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument(
        "--by", choices=get_args(Cluster), help="clusters over which intervals are drawn"
    )
    options = parser.parse_args()
    Answers.by = options.by
    for name in options.tables or TABLES:
        print(f"## {name}\n")
        try:
            TABLES[name](options.out)
        except FileNotFoundError as error:
            print(f"Not measured: {error.filename}\n")


if __name__ == "__main__":
    main()
