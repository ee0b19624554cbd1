"""The file of a measurement, which grows row by row, so that a stopped run continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refrag_components.atomic import atomic_file
from refrag_components.benchmarking.scenario import Case
from refrag_components.exceptions import EvaluationError

__all__ = ["RESULTS_FILE", "Results", "acceleration", "value_of"]

RESULTS_FILE = "latency.json"

_CASE = tuple(asdict(Case(0, "text")))

Row = dict[str, Any]


class Results:
    """Settings and rows of one measurement.

    Attributes:
        settings: What all rows share: model, device, repeats, ...
        rows: From ``measure_case``, in the order in which they were measured.
    """

    def __init__(self, settings: Mapping[str, Any], rows: list[Row] | None = None) -> None:
        self.settings = dict(settings)
        self.rows: list[Row] = rows or []

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Reads the file in a folder.

        Raises:
            EvaluationError: If there is none, or it is damaged.
        """
        path = folder / RESULTS_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(content["settings"], content["rows"])
        except FileNotFoundError as error:
            msg = f"{folder} contains no {RESULTS_FILE}; run `refrag bench latency` first"
            raise EvaluationError(msg) from error
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{path} is damaged ({error}); measure into another folder"
            raise EvaluationError(msg) from error

    @classmethod
    def resume(cls, folder: Path, settings: Mapping[str, Any]) -> Results:
        """Continues the measurement in a folder, or begins one.

        Raises:
            EvaluationError: If what is there has other settings: rows of several machines or models
                must not be compared.
        """
        if not (folder / RESULTS_FILE).is_file():
            return cls(settings)
        known = cls.read(folder)
        wanted = json.loads(json.dumps(dict(settings)))
        names = sorted({*known.settings, *wanted} - {"matrix_rate", "bandwidth"})
        for name in names:
            if known.settings.get(name) != wanted.get(name):
                msg = (
                    f"{folder} was measured with {name}={known.settings.get(name)!r}, not "
                    f"{wanted.get(name)!r}; choose another folder"
                )
                raise EvaluationError(msg)
        return known

    def add(self, row: Row) -> None:
        """Appends a row."""
        self.rows.append(row)

    def has(self, case: Case) -> bool:
        """Whether the case has been measured, or has failed."""
        return any(_case(row) == case for row in self.rows)

    def write(self, folder: Path) -> Path:
        """Writes the file; it is never incomplete."""
        path = folder / RESULTS_FILE
        text = json.dumps({"settings": self.settings, "rows": self.rows}, indent=1) + "\n"
        with atomic_file(path) as scratch:
            scratch.write_text(text, encoding="utf-8")
        return path

    def text(self, context: int) -> Row | None:
        """The row with the same context as text, if it was measured."""
        case = Case(context, "text")
        return next((row for row in self.rows if _case(row) == case), None)


def value_of(row: Row | None, quantity: str) -> float | None:
    """A row's value: "first_token" or "token" in seconds, "throughput" in tokens per second.

    Returns:
        The median, or None if it was not measured.
    """
    measured = (row or {}).get(quantity)
    if measured is None:
        return None
    return float(measured["tokens_per_second" if quantity == "throughput" else "median"])


def acceleration(results: Results, row: Row, quantity: str) -> float | None:
    """How many times better a row is than the same context as text; None if either is missing."""
    value, plain = value_of(row, quantity), value_of(results.text(row["context"]), quantity)
    if not value or not plain:
        return None
    return value / plain if quantity == "throughput" else plain / value


def _case(row: Row) -> Case:
    return Case(**{name: row[name] for name in _CASE})
