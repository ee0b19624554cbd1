"""Results to figures: means with intervals, paired differences, and where answers fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from refrag_components.corpus.question_files import KINDS
from refrag_components.evaluation.answers.results import Result
from refrag_components.evaluation.methods import FULL, Method
from refrag_components.evaluation.statistics import around, interval, resample, sign_flip_p_values
from refrag_components.exceptions import EvaluationError

__all__ = ["ALL_SETS", "summarise"]

#: Name of the mean over sets, each counting the same.
ALL_SETS = "all sets"

_METRICS = ("em", "f1", "log_ppl")


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Puts figures to results.

    Args:
        results: Results with the same methods for every set and setting.

    Returns:
        One object a setting and set, with "rows" (one a method), "pairs" (paired differences of
        methods at equal p, and of each method and the full context) and "kinds" (F1 by kind of
        answer). Where a setting has several sets, one more object holds the mean over them.

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
            msg = f"not every set has the same methods in setting {setting.name}; run them all"
            raise EvaluationError(msg)
        groups = {name: [found] for name, found in by_set.items()}
        if len(by_set) > 1:
            groups[ALL_SETS] = list(by_set.values())
        for name, strata in groups.items():
            table = {
                "set": name,
                "retrieval": setting.retrieval,
                "passages": setting.passages,
                "items": sum(len(next(iter(found.values())).ids) for found in strata),
            }
            tables.append(table | _figures(strata))
    return tables


def _figures(strata: Sequence[Mapping[Method, Result]]) -> dict[str, Any]:
    methods = list(strata[0])
    values = {
        metric: [
            np.stack([found[method].columns[metric] for method in methods], axis=1)
            for found in strata
        ]
        for metric in _METRICS
    }
    draws = {metric: resample(values[metric]) for metric in _METRICS}
    full = methods.index(FULL) if FULL in methods else None
    rows = []
    for i, method in enumerate(methods):
        row: dict[str, Any] = {
            "method": method.name,
            "way": method.way,
            "fraction": None if method.is_fixed else method.fraction,
            "label": method.label,
            **_positions([found[method] for found in strata]),
        }
        for metric in _METRICS:
            row[metric] = _mean(values[metric], i)
            row[f"{metric}_interval"] = interval(draws[metric][:, i])
        if full is not None:
            own, level = draws["log_ppl"], _mean(values["log_ppl"], full)
            row["log_ppl_beside_full"] = around(own[:, i] - own[:, full], level)
        if full is not None and _mean(values["f1"], full) > 0:
            drawn = draws["f1"][draws["f1"][:, full] > 0]  # a few items may all be wrong
            row["f1_of_full"] = row["f1"] / _mean(values["f1"], full)
            row["f1_of_full_interval"] = interval(drawn[:, i] / drawn[:, full])
        rows.append(row)
    return {"rows": rows, "pairs": _pairs(methods, values, draws), "kinds": _kinds(strata)}


def _positions(results: Sequence[Result]) -> dict[str, Any]:
    means = {
        name: float(np.mean([result.columns[name].mean() for result in results]))
        for name in ("positions", "context_positions", "context_tokens")
    }
    taken = means["context_positions"]
    return means | {"rate": means["context_tokens"] / taken if taken else None}


def _pairs(
    methods: Sequence[Method],
    values: Mapping[str, Sequence[np.ndarray]],
    draws: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    compared = [
        (i, j)
        for i, j in combinations(range(len(methods)), 2)
        if FULL in (methods[i], methods[j]) or _at_equal_positions(methods[i], methods[j])
    ]
    if not compared:
        return []
    first, second = (list(indices) for indices in zip(*compared, strict=True))
    pairs: list[dict[str, Any]] = [
        {"a": methods[i].name, "b": methods[j].name} for i, j in compared
    ]
    for metric in _METRICS:
        differences = [own[:, first] - own[:, second] for own in values[metric]]
        p_values = sign_flip_p_values(differences)
        means = np.mean([own.mean(axis=0) for own in differences], axis=0)
        drawn = draws[metric][:, first] - draws[metric][:, second]
        for n, pair in enumerate(pairs):
            pair[metric] = float(means[n])
            pair[f"{metric}_interval"] = interval(drawn[:, n])
            pair[f"{metric}_p"] = float(p_values[n])
    return pairs


def _at_equal_positions(a: Method, b: Method) -> bool:
    """Whether both give the context the same number of positions."""
    fixed = ("none", "full")
    return a.way not in fixed and b.way not in fixed and a.fraction == b.fraction


def _kinds(strata: Sequence[Mapping[Method, Result]]) -> list[dict[str, Any]]:
    """F1 and log-perplexity of each kind of answer, items of all sets together."""
    kinds = np.concatenate([next(iter(found.values())).kinds for found in strata])
    tables = []
    for kind in KINDS:
        own = kinds == kind
        if not own.any():
            continue
        f1, log_ppl = (
            np.stack(
                [
                    np.concatenate([found[method].columns[metric] for found in strata])[own]
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
        tables.append({"kind": kind, "items": int(own.sum()), "rows": rows})
    return tables


def _mean(strata: Sequence[np.ndarray], column: int) -> float:
    return float(np.mean([values[:, column].mean() for values in strata]))
