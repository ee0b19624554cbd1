from __future__ import annotations

import sys

import pytest

from refrag_components.evaluation.answers.rouge import check_rouge, rouge_columns
from refrag_components.exceptions import EvaluationError


def test_each_measure_is_the_best_over_all_right_answers() -> None:
    found = rouge_columns(
        ["the harbour was dug", "", "dug was harbour the"],
        [["rain fell", "the harbour was dug in 1907"], ["rain"], ["the harbour was dug"]],
    )
    assert found["rouge1"].tolist() == pytest.approx([0.8, 0, 1])  # 4 of 4 and 4 of 6 words
    assert found["rouge2"].tolist() == pytest.approx([0.75, 0, 0])  # 3 of 3 and 3 of 5 pairs
    assert found["rougeL"].tolist() == pytest.approx([0.8, 0, 0.25])


def test_a_missing_library_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    with pytest.raises(EvaluationError, match=r"refrag-components\[eval\]"):
        check_rouge()
