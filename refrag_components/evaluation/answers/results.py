"""Results of one method on one set, saved so that they need not be computed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refrag_components.atomic import atomic_file
from refrag_components.checking import parse_json
from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.methods import Method
from refrag_components.evaluation.statistics import cluster_labels
from refrag_components.exceptions import EvaluationError

__all__ = [
    "COLUMNS",
    "Cluster",
    "Result",
    "join_results",
    "read_result",
    "result_path",
    "write_json",
    "write_result",
]

Cluster = Literal["passage", "article"]

#: Columns that are saved for every question, with their types.
COLUMNS: Mapping[str, type] = {
    "em": float,
    "f1": float,
    "refused": int,
    "log_ppl": float,
    "shown": int,
    "positions": int,
    "context_positions": int,
    "context_tokens": int,
    "cut": int,
}


# Name in a file -> attribute of a result.
_LISTS = {
    "id": "ids",
    "kind": "kinds",
    "passages": "passages",
    "titles": "titles",
    "prediction": "predictions",
}


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one method on one set in one setting.

    Attributes:
        set: Name of the set.
        setting: Where the passages came from.
        method: The method.
        ids: Ids of the questions.
        kinds: Kind of each question's answer.
        passages: Ids of the passages that answer each question, or that it was asked about.
        titles: Their titles, "" for a passage without one.
        predictions: What the model wrote.
        columns: For each of ``COLUMNS`` a value per question, shape (questions,), float64. "em"
            and "f1" are NaN if there is no right answer; "refused" is 1 if the model said that
            there is none; "log_ppl" is in nats per token of the answer; "shown" is 1 if an answer
            occurs in the text that the decoder read; "cut" is 1 if the context did not fit.
    """

    set: str
    setting: Setting
    method: Method
    ids: Sequence[str]
    kinds: Sequence[str]
    passages: Sequence[Sequence[str]]
    titles: Sequence[Sequence[str]]
    predictions: Sequence[str]
    columns: Mapping[str, np.ndarray]

    def part(self, mask: np.ndarray) -> Result:
        """The result for the questions in a mask of shape (questions,), bool."""
        rows = np.flatnonzero(mask)
        parts: dict[str, Any] = {
            name: [getattr(self, name)[i] for i in rows] for name in _LISTS.values()
        }
        parts["columns"] = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, **parts)

    def clusters(self, by: Cluster) -> np.ndarray:
        """Groups questions that are not independent evidence, for ``resample``.

        Args:
            by: "passage": questions that share a passage that answers them. "article": questions
                whose passages share a title; a passage without a title is a separate article.

        Returns:
            Label of each question's cluster, shape (questions,), int64.
        """
        if by == "passage":
            return cluster_labels(self.passages)
        articles = [
            [
                f"title {title}" if title else f"passage {key}"
                for key, title in zip(keys, titles, strict=True)
            ]
            for keys, titles in zip(self.passages, self.titles, strict=True)
        ]
        return cluster_labels(articles)


def join_results(results: Sequence[Result], name: str) -> Result:
    """Joins several sets into one, in which every question counts the same.

    Args:
        results: Results of one method in one setting.
        name: Name of the joined set.
    """
    first = results[0]
    parts: dict[str, Any] = {
        attribute: [value for result in results for value in getattr(result, attribute)]
        for attribute in _LISTS.values()
    }
    parts["columns"] = {
        column: np.concatenate([result.columns[column] for result in results])
        for column in first.columns
    }
    return replace(first, set=name, **parts)


def result_path(folder: Path, set_name: str, setting: Setting, method: Method) -> Path:
    """Path of a result's file."""
    return folder / "results" / set_name / setting.name / f"{method.name}.json"


def write_result(folder: Path, result: Result, run: Mapping[str, Any]) -> None:
    """Writes a result; ``run`` describes what it was computed from."""
    method = result.method
    columns = {name: _values(result.columns[name], kind) for name, kind in COLUMNS.items()}
    content = {
        "run": dict(run),
        "method": {
            "kind": method.kind,
            "selection": method.selection,
            "p": method.fraction,
            "positions": method.positions,
            "rung": method.rung,
        },
        **{name: list(getattr(result, attribute)) for name, attribute in _LISTS.items()},
        **columns,
    }
    write_json(result_path(folder, result.set, result.setting, result.method), content)


def read_result(
    folder: Path,
    set_name: str,
    setting: Setting,
    method: Method,
    run: Mapping[str, Any] | None = None,
) -> Result | None:
    """Reads a result, or None if there is none yet.

    Args:
        folder: Folder of the results.
        set_name: Name of the set.
        setting: Where the passages came from.
        method: The method.
        run: What it must have been computed from; None accepts any run.

    Raises:
        EvaluationError: If the file is damaged or ``run`` differs.
    """
    path = result_path(folder, set_name, setting, method)
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        result = Result(
            set_name,
            setting,
            method,
            **{attribute: content[name] for name, attribute in _LISTS.items()},
            columns={name: np.asarray(content[name], dtype=np.float64) for name in COLUMNS},
        )
        saved_run = content["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged ({error}); remove it and run the measurement again"
        raise EvaluationError(msg) from error
    wanted = run or {}
    if different := sorted(name for name in wanted if saved_run.get(name) != wanted[name]):
        msg = (
            f"{path} was computed with another value of: {', '.join(different)}; choose another "
            "output folder, or remove the results in this one"
        )
        raise EvaluationError(msg)
    return result


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; the file is never incomplete."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _values(column: np.ndarray, kind: type) -> list[Any]:
    return [None if np.isnan(value) else kind(round(float(value), 6)) for value in column]
