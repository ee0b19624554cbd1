"""Results part by part: by turn of a conversation, by number of examples, by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refrag_components.evaluation.answers.results import Result, join_results
from refrag_components.evaluation.answers.summary import FEWEST_CLUSTERS
from refrag_components.evaluation.methods import (
    FULL,
    AllCompressed,
    FewerPassages,
    FirstTokens,
    Keep,
    Ladder,
    LadderText,
    LastTokens,
    Latest,
    Method,
    SameText,
    describe,
)
from refrag_components.evaluation.statistics import interval, mean_of_sets, resample

__all__ = ["ALL_PARTS", "summarise_parts"]

#: Name of all parts together, in which every question counts the same.
ALL_PARTS = "all"

Found = Mapping[Method, Result]


def summarise_parts(results: Sequence[Result], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Computes the figures of results in several settings, next to each other.

    Args:
        results: Results with the same methods for every set and setting.
        metrics: Columns to average.

    Returns:
        One object per set: "parts", one for each setting and, if there are several, one for all
        together. A part has "rows" (one per method: positions and, for each metric, mean and
        intervals) and "pairs" (paired differences at equal positions, and from the full context).
        Intervals are over questions and, where there are ten or more, over articles ("_articles").
    """
    tables = []
    for name in dict.fromkeys(result.set for result in results):
        by_setting: dict[str, dict[Method, Result]] = {}
        for result in results:
            if result.set == name:
                by_setting.setdefault(result.setting.name, {})[result.method] = result
        parts = []
        for found in by_setting.values():
            setting = next(iter(found.values())).setting
            part = {"part": setting.retrieval, "number": setting.passages}
            parts.append(part | _figures(found, metrics))
        if len(by_setting) > 1:
            joined = {
                method: join_results([found[method] for found in by_setting.values()], name)
                for method in next(iter(by_setting.values()))
            }
            parts.append({"part": ALL_PARTS, "number": None} | _figures(joined, metrics))
        tables.append({"set": name, "metrics": list(metrics), "parts": parts})
    return tables


def _figures(found: Found, metrics: Sequence[str]) -> dict[str, Any]:
    methods = list(found)
    first = found[methods[0]]
    columns = [(method, metric) for method in methods for metric in metrics]
    values = np.stack([found[method].columns[metric] for method, metric in columns], axis=1)
    labels = first.clusters("article")
    clusters = int(labels.max()) + 1
    means = mean_of_sets([values])
    drawn = {"": resample([values])}
    drawn["_articles"] = resample([values], [labels]) if clusters >= FEWEST_CLUSTERS else None  # type: ignore[assignment]

    def cells(a: Method, b: Method | None, metric: str) -> dict[str, Any]:
        at = columns.index((a, metric))
        minus = None if b is None else columns.index((b, metric))
        made: dict[str, Any] = {metric: float(means[at] - (0 if minus is None else means[minus]))}
        for suffix, draws in drawn.items():
            bounds = None
            if draws is not None and not np.isnan(made[metric]):
                bounds = interval(draws[:, at] - (0 if minus is None else draws[:, minus]))
            made[f"{metric}_interval{suffix}"] = bounds
        return made

    rows = []
    for method in methods:
        row = describe(method)
        for column in ("positions", "context_positions", "context_tokens", "cut"):
            row[column] = float(found[method].columns[column].mean())
        for metric in metrics:
            row |= cells(method, None, metric)
        rows.append(row)
    pairs = []
    for method in methods:
        for rival in _rivals(method, methods):
            pair: dict[str, Any] = {"a": method.name, "b": rival.name}
            for metric in metrics:
                pair |= cells(method, rival, metric)
            pairs.append(pair)
    return {"items": len(first.ids), "articles": clusters, "rows": rows, "pairs": pairs}


def _rivals(method: Method, methods: Sequence[Method]) -> list[Method]:
    """Text at equal positions, and the full context, as far as they were measured."""
    rivals: list[Method] = []
    if isinstance(method, AllCompressed | Keep):
        p = method.fraction or 0.0
        if method.rung is None:
            rivals += [LastTokens(p), FirstTokens(p), FewerPassages(p)]
        named = [method.selection] if method.selection else [m.selection for m in methods]
        rivals += [SameText(name, p, method.rung) for name in dict.fromkeys(named) if name]
    if isinstance(method, Ladder):
        rivals += [LadderText(method.selection, method.positions), Latest(method.positions)]
    if method.compresses:
        rivals.append(FULL)
    return [rival for rival in rivals if rival in methods]
