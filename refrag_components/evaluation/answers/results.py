"""Results of one method on one set, kept in a file so that they need not be computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.methods import Method
from refrag_components.exceptions import EvaluationError

__all__ = ["COLUMNS", "Result", "read_result", "result_path", "write_json", "write_result"]

#: What is kept for every question, each with its type.
COLUMNS: Mapping[str, type] = {
    "em": float,
    "f1": float,
    "log_ppl": float,
    "positions": int,
    "context_positions": int,
    "context_tokens": int,
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
        predictions: What the model wrote.
        columns: For each of ``COLUMNS`` a value a question, shape (questions,), float64.
    """

    set: str
    setting: Setting
    method: Method
    ids: Sequence[str]
    kinds: Sequence[str]
    predictions: Sequence[str]
    columns: Mapping[str, np.ndarray]


def result_path(folder: Path, set_name: str, setting: Setting, method: Method) -> Path:
    """Where a result is kept."""
    return folder / "results" / set_name / setting.name / f"{method.name}.json"


def write_result(folder: Path, result: Result, run: Mapping[str, Any]) -> None:
    """Writes a result; ``run`` says what it was computed from."""
    columns = {name: _values(result.columns[name], kind) for name, kind in COLUMNS.items()}
    content = {
        "run": dict(run),
        "method": {"way": result.method.way, "fraction": result.method.fraction},
        "id": list(result.ids),
        "kind": list(result.kinds),
        "prediction": list(result.predictions),
        **columns,
    }
    write_json(result_path(folder, result.set, result.setting, result.method), content)


def read_result(
    folder: Path, set_name: str, setting: Setting, method: Method, run: Mapping[str, Any]
) -> Result | None:
    """Reads a result, or None if there is none yet.

    Raises:
        EvaluationError: If the file is damaged or was computed from something else.
    """
    path = result_path(folder, set_name, setting, method)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        result = Result(
            set_name,
            setting,
            method,
            content["id"],
            content["kind"],
            content["prediction"],
            {name: np.asarray(content[name], dtype=np.float64) for name in COLUMNS},
        )
        before = content["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged ({error}); remove it and run again"
        raise EvaluationError(msg) from error
    if different := sorted(name for name in run if before.get(name) != run[name]):
        msg = (
            f"{path} was computed with another {', '.join(different)}; choose another output "
            "folder, or remove this one's results"
        )
        raise EvaluationError(msg)
    return result


def write_json(path: Path, content: Any) -> None:
    """Writes JSON beside the file and renames it, so that a file is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def _values(column: np.ndarray, kind: type) -> list[Any]:
    return [kind(round(float(value), 6)) for value in column]
