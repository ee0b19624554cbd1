from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.results import (
    COLUMNS,
    Result,
    join_results,
    read_result,
    write_result,
)
from refrag_components.evaluation.methods import FULL, Drop, Keep, SameText
from refrag_components.exceptions import EvaluationError


def result(name: str, n: int, **changes: object) -> Result:
    """Questions, the last of which has no answer."""
    columns = {column: np.arange(n, dtype=np.float64) / 4 for column in COLUMNS}
    columns |= {column: np.arange(n) % 2.0 for column in ("refused", "shown", "cut")}
    columns["f1"][-1] = columns["em"][-1] = np.nan
    values: dict[str, object] = {
        "set": name,
        "setting": Setting(),
        "method": Keep("random", 0.1),
        "ids": [f"{name}{i}" for i in range(n)],
        "kinds": ["number"] * (n - 1) + ["unanswerable"],
        "passages": [[f"p{i // 2}", "p9"][: 1 + i % 2] for i in range(n)],
        "titles": [["Harbours", ""][: 1 + i % 2] for i in range(n)],
        "predictions": ["1907"] * n,
        "columns": columns | {c: np.arange(n) * 4.0 for c in COLUMNS if c.endswith("positions")},
    }
    return Result(**values | changes)  # type: ignore[arg-type]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = result("a", 4, columns=result("a", 4).columns | {"context_tokens": np.arange(4.0)})
    write_result(tmp_path, written, {"fingerprint": "f00d"})
    for run in (None, {"fingerprint": "f00d"}):
        again = read_result(tmp_path, "a", Setting(), written.method, run)
        assert again is not None
        for name in ("ids", "kinds", "passages", "titles", "predictions"):
            assert getattr(again, name) == getattr(written, name)
        for column in COLUMNS:
            np.testing.assert_allclose(again.columns[column], written.columns[column], atol=1e-6)
    with pytest.raises(EvaluationError, match="another value of: fingerprint"):
        read_result(tmp_path, "a", Setting(), written.method, {"fingerprint": "beef"})


def test_rows_of_different_kinds_are_kept_apart(tmp_path: Path) -> None:
    kinds = (FULL, *(kind("random", 0.1) for kind in (Keep, Drop, SameText)), Keep("random", 0.2))
    for i, method in enumerate(kinds):
        write_result(tmp_path, result("a", 4 + i, method=method), {})
    for i, method in enumerate(kinds):
        again = read_result(tmp_path, "a", Setting(), method)
        assert again is not None
        assert len(again.ids) == 4 + i
    assert read_result(tmp_path, "a", Setting(), Drop("random", 0.2)) is None


def test_joined_every_question_counts_the_same() -> None:
    whole = join_results([result("a", 4), result("b", 6)], "both")
    assert whole.set == "both"
    assert list(whole.ids) == [*result("a", 4).ids, *result("b", 6).ids]
    for column, values in whole.columns.items():
        parts = [result(name, n).columns[column] for name, n in (("a", 4), ("b", 6))]
        np.testing.assert_array_equal(values, np.concatenate(parts))
    # Questions of both sets on one passage are one cluster.
    assert whole.clusters("passage")[0] == whole.clusters("passage")[4]


def test_a_part_has_the_same_questions_in_every_column() -> None:
    part = result("a", 6).part(np.array([False, True, False, False, True, True]))
    assert part.ids == ["a1", "a4", "a5"]
    assert part.passages == [["p0", "p9"], ["p2"], ["p2", "p9"]]
    assert part.kinds[-1] == "unanswerable"
    assert part.columns["log_ppl"].tolist() == [0.25, 1.0, 1.25]
    assert part.clusters("passage").tolist() == [0, 0, 0]  # by p2 and p9
