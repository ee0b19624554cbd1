"""Results of one method on one set, kept in a file so that they need not be computed again."""

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

#: What is kept for every question, each with its type.
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
    """What one method did on one set in one setting.

    Attributes:
        set: Name of the set.
        setting: Where the passages came from.
        method: The method.
        ids: Ids of the questions.
        kinds: Kind of each question's answer.
        passages: Ids of the passages that answer each question, or that it was asked about.
        titles: Their titles, "" where a passage has none.
        predictions: What the model wrote.
        columns: For each of ``COLUMNS`` a value per question, shape (questions,), float64. "em"
            and "f1" are NaN where there is no right answer; "refused" is 1 where the model said
            that there is none; "log_ppl" is in nats per token of the answer; "shown" is 1 where
            an answer stands in the text that the decoder read; "cut" is 1 where the context did
            not fit.
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

    def part(self, wanted: np.ndarray) -> Result:
        """The result of some of the questions, True in ``wanted``, shape (questions,), bool."""
        own = np.flatnonzero(wanted)
        parts: dict[str, Any] = {
            name: [getattr(self, name)[i] for i in own] for name in _LISTS.values()
        }
        parts["columns"] = {name: values[own] for name, values in self.columns.items()}
        return replace(self, **parts)

    def clusters(self, by: Cluster) -> np.ndarray:
        """Which questions are no independent evidence; numbers for ``resample``.

        Args:
            by: "passage": questions that share a passage that answers them. "article": those
                whose passages share a title; a passage without a title is an article of its own.

        Returns:
            Number of each question's cluster, shape (questions,), int64.
        """
        if by == "passage":
            return cluster_labels(self.passages)
        named = [
            [
                f"title {title}" if title else f"passage {key}"
                for key, title in zip(*own, strict=True)
            ]
            for own in zip(self.passages, self.titles, strict=True)
        ]
        return cluster_labels(named)


def join_results(results: Sequence[Result], name: str) -> Result:
    """Several sets as one, in which every question counts the same.

    Args:
        results: Of one method and one setting.
        name: Name of the whole.
    """
    first = results[0]
    parts: dict[str, Any] = {
        attribute: [value for result in results for value in getattr(result, attribute)]
        for attribute in _LISTS.values()
    }
    parts["columns"] = {
        column: np.concatenate([result.columns[column] for result in results]) for column in COLUMNS
    }
    return replace(first, set=name, **parts)


def result_path(folder: Path, set_name: str, setting: Setting, method: Method) -> Path:
    """Where a result is kept."""
    return folder / "results" / set_name / setting.name / f"{method.name}.json"


def write_result(folder: Path, result: Result, run: Mapping[str, Any]) -> None:
    """Writes a result; ``run`` says what it was computed from."""
    method = result.method
    columns = {name: _values(result.columns[name], kind) for name, kind in COLUMNS.items()}
    content = {
        "run": dict(run),
        "method": {"kind": method.kind, "selection": method.selection, "p": method.fraction},
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
        folder: Where results are kept.
        set_name: Name of the set.
        setting: Where the passages came from.
        method: The method.
        run: What it must have been computed from; anything by default.

    Raises:
        EvaluationError: If the file is damaged or was computed from something else.
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
        before = content["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged ({error}); remove it and run again"
        raise EvaluationError(msg) from error
    wanted = run or {}
    if different := sorted(name for name in wanted if before.get(name) != wanted[name]):
        msg = (
            f"{path} was computed with another {', '.join(different)}; choose another output "
            "folder, or remove this one's results"
        )
        raise EvaluationError(msg)
    return result


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; a file is always whole."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _values(column: np.ndarray, kind: type) -> list[Any]:
    return [None if np.isnan(value) else kind(round(float(value), 6)) for value in column]
