"""Results to figures: means with intervals, paired differences, the value of keeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from refrag_components.corpus.question_files import KINDS
from refrag_components.evaluation.answers.keeping import keeping_pairs, keeping_values
from refrag_components.evaluation.answers.results import Cluster, Result
from refrag_components.evaluation.methods import (
    FULL,
    AllCompressed,
    Drop,
    Latest,
    Method,
    SameText,
    describe,
)
from refrag_components.evaluation.statistics import (
    around,
    interval,
    mean_of_sets,
    resample,
    sign_flip_p_values,
)
from refrag_components.exceptions import EvaluationError

__all__ = ["ALL_SETS", "FEWEST_CLUSTERS", "summarise"]

#: Name of the mean over sets, in which each set counts the same.
ALL_SETS = "all sets"

#: With fewer clusters than this an interval would mean little, so there is none.
FEWEST_CLUSTERS = 10

_METRICS = {"answers": ("em", "f1", "log_ppl"), "refusals": ("refused", "log_ppl")}
_CLUSTERS: Mapping[str, Cluster] = {"passages": "passage", "articles": "article"}

Found = Mapping[Method, Result]


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Computes the figures of results.

    Questions with and without a right answer never share a mean.

    Args:
        results: Results with the same methods for every set and setting.

    Returns:
        One object per setting and set, "judged" by its "answers" or, for the questions without
        one, by its "refusals". It has "rows" (one per method), "pairs" (paired differences of
        methods at equal positions, and of each method and the full context), "keeping" (the value
        of compressing the rest instead of dropping it) and "kinds" (F1 by kind of answer). If a
        setting has several sets, one more object holds the mean over them. Every interval is given
        three times: over questions, over clusters of questions on one passage ("_passages") and on
        one article ("_articles"; None if there are fewer than ``FEWEST_CLUSTERS``).

    Raises:
        EvaluationError: If a set lacks a method that another has.
    """
    tables = []
    for setting in dict.fromkeys(result.setting for result in results):
        by_set: dict[str, dict[Method, Result]] = {}
        for result in results:
            if result.setting == setting:
                by_set.setdefault(result.set, {})[result.method] = result
        if len({frozenset(found) for found in by_set.values()}) > 1:
            msg = (
                f"not every set has the same methods in setting {setting.name}; run the missing "
                "methods"
            )
            raise EvaluationError(msg)
        for judged in _METRICS:
            parts = {name: _judged(found, judged) for name, found in by_set.items()}
            parts = {name: found for name, found in parts.items() if _items([found])}
            groups = {name: [found] for name, found in parts.items()}
            if len(parts) > 1:
                groups[ALL_SETS] = list(parts.values())
            for name, strata in groups.items():
                table = {
                    "set": name,
                    "retrieval": setting.retrieval,
                    "passages": setting.passages,
                    "place": setting.place,
                    "judged": judged,
                    "items": _items(strata),
                }
                tables.append(table | _Figures(strata, judged).tables())
    return tables


class _Figures:
    """Figures of one table: sets with the same methods, each of which counts the same."""

    def __init__(self, strata: Sequence[Found], judged: str) -> None:
        self._strata, self._metrics = strata, _METRICS[judged]
        self._methods = list(strata[0])
        columns = [self._columns(found) for found in strata]
        self._names = list(columns[0])
        values = [np.stack(list(of_set.values()), axis=1) for of_set in columns]
        self._counts = sum((~np.isnan(of_set)).sum(axis=0) for of_set in values)
        self._means = mean_of_sets(values)
        self._drawn = resample(values)
        self._draws: dict[str, np.ndarray | None] = {"": self._drawn}
        self._clusters: dict[str, list[np.ndarray]] = {}
        for name, by in _CLUSTERS.items():
            labels = [next(iter(found.values())).clusters(by) for found in strata]
            self._clusters[name] = labels
            enough = _count(labels) >= FEWEST_CLUSTERS
            self._draws[f"_{name}"] = resample(values, labels) if enough else None

    def tables(self) -> dict[str, Any]:
        """All figures of the table."""
        return {
            "clusters": {name: _count(labels) for name, labels in self._clusters.items()},
            "rows": self._rows(),
            "pairs": self._pairs(),
            "keeping": self._keeping(),
            "kinds": _kinds(self._strata) if "f1" in self._metrics else [],
        }

    def _columns(self, found: Found) -> dict[tuple[str, str], np.ndarray]:
        """All columns of one set that are averaged, by name and metric."""
        columns = {}
        for metric in self._metrics:
            for method, result in found.items():
                columns[method.name, metric] = result.columns[metric]
            for keep, drop in keeping_pairs(self._methods):
                every, hidden = keeping_values(found[keep], found[drop], metric)
                columns[f"{keep.name}: V", metric] = every
                columns[f"{keep.name}: V, not shown", metric] = hidden
        return columns

    def _mean(self, name: str, metric: str) -> float:
        return float(self._means[self._names.index((name, metric))])

    def _drawn_means(self, name: str, metric: str) -> np.ndarray:
        """Bootstrap means of a column, shape (samples,)."""
        return self._drawn[:, self._names.index((name, metric))]

    def _intervals(self, metric: str, a: str, b: str | None = None) -> dict[str, Any]:
        """Intervals of a mean, or of the difference of two means, by their keys in a table."""
        found = {}
        for suffix, draws in self._draws.items():
            bounds = None
            if draws is not None:
                drawn = draws[:, self._names.index((a, metric))]
                if b is not None:
                    drawn = drawn - draws[:, self._names.index((b, metric))]
                bounds = interval(drawn)
            found[f"{metric}_interval{suffix}"] = bounds
        return found

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        compared = FULL in self._methods
        some_correct = compared and "f1" in self._metrics and self._mean(FULL.name, "f1") > 0
        for method in self._methods:
            results = [found[method] for found in self._strata]
            row = describe(method) | _positions(results)
            for metric in self._metrics:
                row[metric] = self._mean(method.name, metric)
                row |= self._intervals(metric, method.name)
            refused = [result.columns["refused"].mean() for result in results]
            row.setdefault("refused", float(np.mean(refused)))
            if compared:
                drawn, full = (self._drawn_means(m.name, "log_ppl") for m in (method, FULL))
                row["log_ppl_beside_full"] = around(drawn - full, self._mean(FULL.name, "log_ppl"))
            if some_correct:
                drawn, full = (self._drawn_means(m.name, "f1") for m in (method, FULL))
                some = full > 0  # all answers in a small sample may be wrong
                row["f1_of_full"] = row["f1"] / self._mean(FULL.name, "f1")
                row["f1_of_full_interval"] = interval(drawn[some] / full[some])
            rows.append(row)
        return rows

    def _pairs(self) -> list[dict[str, Any]]:
        compared = [
            (a, b)
            for a, b in combinations(self._methods, 2)
            if FULL in (a, b) or _at_equal_positions(a, b)
        ]
        pairs: list[dict[str, Any]] = [{"a": a.name, "b": b.name} for a, b in compared]
        for metric in self._metrics if compared else ():
            differences = [
                np.stack([f[a].columns[metric] - f[b].columns[metric] for a, b in compared], axis=1)
                for f in self._strata
            ]
            # Questions on one passage are not independent: their signs flip together.
            p_values = sign_flip_p_values(differences, self._clusters["passages"])
            means = mean_of_sets(differences)
            for n, pair in enumerate(pairs):
                pair[metric] = float(means[n])
                pair |= self._intervals(metric, pair["a"], pair["b"])
                pair[f"{metric}_p"] = float(p_values[n])
        return pairs

    def _keeping(self) -> list[dict[str, Any]]:
        rows = []
        for keep, drop in keeping_pairs(self._methods):
            for of, suffix in (("all", ""), ("not shown", ", not shown")):
                name = f"{keep.name}: V{suffix}"
                items = int(self._counts[self._names.index((name, "log_ppl"))])
                if not items:
                    continue
                row = describe(keep) | {"rest": drop.name, "of": of, "items": items}
                for metric in self._metrics:
                    row[metric] = self._mean(name, metric)
                    row |= self._intervals(metric, name)
                rows.append(row)
        return rows


def _judged(found: Found, judged: str) -> dict[Method, Result]:
    """The part of a set that has answers, or the part that has none."""
    kinds = np.asarray(next(iter(found.values())).kinds)
    wanted = (kinds != "unanswerable") == (judged == "answers")
    return {method: result.part(wanted) for method, result in found.items()}


def _items(strata: Sequence[Found]) -> int:
    return sum(len(next(iter(found.values())).ids) for found in strata)


def _count(labels: Sequence[np.ndarray]) -> int:
    return sum(int(of_set.max()) + 1 for of_set in labels)


def _positions(results: Sequence[Result]) -> dict[str, Any]:
    means = {
        name: float(np.mean([result.columns[name].mean() for result in results]))
        for name in ("positions", "context_positions", "context_tokens")
    }
    taken = means["context_positions"]
    cut = sum(int(result.columns["cut"].sum()) for result in results)
    return means | {"rate": means["context_tokens"] / taken if taken else None, "cut": cut}


def _at_equal_positions(a: Method, b: Method) -> bool:
    """Whether both give the context equally many positions; a policy's text only with its rows."""
    if a.positions is not None:
        chosen_alike = a.selection == b.selection or Latest in (type(a), type(b))
        return a.positions == b.positions and chosen_alike
    if Drop in (type(a), type(b)) or _p(a) is None or _p(a) != _p(b):
        return False
    if a.rung != b.rung:
        return False
    if SameText not in (type(a), type(b)):
        return True
    return (a.compresses or b.compresses) and (
        AllCompressed in (type(a), type(b)) or a.selection == b.selection
    )


def _p(method: Method) -> float | None:
    return 0.0 if isinstance(method, AllCompressed) else method.fraction


def _kinds(strata: Sequence[Found]) -> list[dict[str, Any]]:
    """F1 and log-perplexity by kind of answer, over the items of all sets."""
    kinds = np.concatenate([next(iter(found.values())).kinds for found in strata])
    tables = []
    for kind in KINDS:
        mask = kinds == kind
        if not mask.any():
            continue
        f1, log_ppl = (
            np.stack(
                [
                    np.concatenate([found[method].columns[metric] for found in strata])[mask]
                    for method in strata[0]
                ],
                axis=1,
            )
            for metric in ("f1", "log_ppl")
        )
        draws = resample([f1])
        rows = {
            method.name: {
                "f1": float(f1[:, n].mean()),
                "f1_interval": interval(draws[:, n]),
                "log_ppl": float(log_ppl[:, n].mean()),
            }
            for n, method in enumerate(strata[0])
        }
        tables.append({"kind": kind, "items": int(mask.sum()), "rows": rows})
    return tables
