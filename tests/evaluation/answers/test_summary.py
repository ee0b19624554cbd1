from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refrag_components.evaluation.answers.contexts import Setting
from refrag_components.evaluation.answers.keeping import keeping_pairs, keeping_values
from refrag_components.evaluation.answers.results import COLUMNS, Result
from refrag_components.evaluation.answers.summary import ALL_SETS, FEWEST_CLUSTERS, summarise
from refrag_components.evaluation.methods import (
    COMPRESSED,
    FULL,
    NONE,
    Drop,
    Keep,
    Method,
    SameText,
    default_methods,
)
from refrag_components.evaluation.reports.markdown import qa_markdown
from refrag_components.exceptions import EvaluationError

KEEP, DROP = Keep("random", 0.25), Drop("random", 0.25)


def result(
    name: str,
    method: Method,
    f1: Sequence[float],
    kinds: list[str] | None = None,
    passages: list[list[str]] | None = None,
    **columns: Sequence[float],
) -> Result:
    """A result whose log-perplexity falls as F1 rises; every question has a passage of its own."""
    values = np.asarray(f1, dtype=np.float64)
    zeros = np.zeros(len(values))
    found = dict.fromkeys(COLUMNS, zeros) | {"em": values, "f1": values, "log_ppl": 3 - values}
    found |= {"context_tokens": zeros + 40, "positions": zeros + 50}
    found["context_positions"] = zeros + {"none": 0, "full": 40}.get(method.kind, 10)
    found |= {key: np.asarray(column, dtype=np.float64) for key, column in columns.items()}
    ids = [f"{name}-{i}" for i in range(len(values))]
    passage_ids = passages or [[key] for key in ids]
    titles = [[f"About {key}" for key in keys] for keys in passage_ids]
    kinds = kinds or ["number"] * len(ids)
    return Result(name, Setting(), method, ids, kinds, passage_ids, titles, ids, found)


def test_figures_of_two_sets() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(40) / 2
    kinds = ["number"] * 10 + ["yes/no"] * 30
    results = [
        *(result("a", m, list(base + s), kinds) for m, s in ((FULL, 0.5), (COMPRESSED, 0.25))),
        *(result("b", m, list(base[:8] * s)) for m, s in ((FULL, 2), (COMPRESSED, 1))),
    ]
    a, b, both = summarise(results)
    assert [table["set"] for table in (a, b, both)] == ["a", "b", ALL_SETS]
    assert (a["items"], b["items"], both["items"]) == (40, 8, 48)
    full, compressed = a["rows"]
    assert compressed["rate"] == 4.0
    assert compressed["f1"] == pytest.approx(base.mean() + 0.25)
    assert full["f1_of_full"] == 1.0
    assert full["f1_of_full_interval"] == (1.0, 1.0)
    low, high = compressed["f1_of_full_interval"]
    assert low < compressed["f1_of_full"] < high
    (pair,) = a["pairs"]
    assert pair["f1"] == pytest.approx(0.25)
    assert pair["f1_interval"] == (pytest.approx(0.25), pytest.approx(0.25))
    assert pair["f1_p"] < 0.001
    assert {kind["kind"]: kind["items"] for kind in a["kinds"]} == {"number": 10, "yes/no": 30}
    means = [table["rows"][1]["f1"] for table in (a, b)]
    assert both["rows"][1]["f1"] == pytest.approx(np.mean(means))
    text = qa_markdown([a, b, both], chunk_size=4)
    assert "## all sets: 48 questions, 5 passages" in text
    assert "| p=0 | " in text


def test_pairs_are_those_at_equal_positions_and_the_full_context() -> None:
    methods = default_methods(("random", "recent"), (0.1, 0.25))
    (table,) = summarise([result("a", method, [0.0, 1.0, 0.5]) for method in methods])
    pairs = {(pair["a"], pair["b"]) for pair in table["pairs"]}
    assert ("random-0.1", "recent-0.1") in pairs
    assert ("fewer-0.25", "random-0.25") in pairs
    assert ("compressed", "fewer-0") in pairs
    assert ("full", "random-0.1") in pairs
    assert ("random-0.1", "random-0.1-text") in pairs
    assert ("compressed", "random-0-text") in pairs
    assert {
        ("random-64-ladder", "latest-64"),
        ("random-64-ladder", "random-64-ladder-text"),
    } <= pairs
    assert (
        not {("random-64-ladder", "latest-128"), ("random-64-ladder", "recent-64-ladder")} & pairs
    )
    assert not {("random-0.1", "random-0.25"), ("none", "compressed")} & pairs
    assert not {("random-0.1", "recent-0.1-text"), ("random-0.1", "random-0.1-drop")} & pairs


def test_rows_of_a_rung_are_paired_with_text_in_as_many_positions() -> None:
    methods = default_methods(("random",), (0.1,), rungs=(16,))
    (table,) = summarise([result("a", method, [0.0, 1.0, 0.5]) for method in methods])
    pairs = {(pair["a"], pair["b"]) for pair in table["pairs"]}
    assert ("random-0.1-rung-16", "random-0.1-text-rung-16") in pairs
    assert ("compressed-rung-16", "random-0-text-rung-16") in pairs
    assert (
        not {("random-0.1-rung-16", "random-0.1-text"), ("fewer-0.1", "random-0.1-rung-16")} & pairs
    )


def test_sets_with_different_methods_are_refused() -> None:
    with pytest.raises(EvaluationError, match="same methods"):
        summarise([result("a", FULL, [1.0]), result("b", NONE, [1.0])])


def test_no_right_answer_at_all_gives_no_share() -> None:
    (table,) = summarise([result("a", FULL, [0.0, 0.0]), result("a", COMPRESSED, [0.0, 0.0])])
    assert "f1_of_full" not in table["rows"][0]
    assert "| full context |" in qa_markdown([table], chunk_size=4)


def test_what_keeping_is_measured_by() -> None:
    pairs = keeping_pairs(default_methods(("random", "recent"), (0.1, 0.25)))
    assert pairs[0] == (COMPRESSED, NONE)
    assert len(pairs) == 1 + 2 * 2
    for keep, drop in pairs[1:]:
        assert isinstance(keep, Keep)
        assert drop == Drop(keep.selection, keep.fraction)
    assert not keeping_pairs([KEEP, FULL, COMPRESSED, SameText("random", 0.25)])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(-0.5, 0.5), st.data())
def test_the_value_of_keeping_is_of_each_question(
    dropped: list[float], gain: float, data: st.DataObject
) -> None:
    """However much questions scatter, a gain that all have has no width."""
    n = len(dropped)
    kinds = data.draw(
        st.lists(st.sampled_from(["number", "phrase", "yes/no"]), min_size=n, max_size=n)
    )
    shown = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    keep = result("a", KEEP, [value + gain for value in dropped], kinds, shown=shown)
    drop = result("a", DROP, dropped, kinds, shown=[1 - value for value in shown])
    for metric in ("f1", "em", "log_ppl"):  # fewer nats are a gain as more F1 is
        every, hidden = keeping_values(keep, drop, metric)
        np.testing.assert_allclose(every, gain, atol=1e-9)
        wanted = [not value and kind != "yes/no" for value, kind in zip(shown, kinds, strict=True)]
        assert (~np.isnan(hidden)).tolist() == wanted
    (table,) = summarise([keep, drop])
    for row in table["keeping"]:
        assert row["f1"] == pytest.approx(gain, abs=1e-9)
        assert row["f1_interval"] == pytest.approx((gain, gain), abs=1e-9)
        assert row["log_ppl"] == pytest.approx(gain, abs=1e-9)
        assert row["items"] == (n if row["of"] == "all" else sum(wanted))
    assert {row["of"] for row in table["keeping"]} == {"all"} | (
        {"not shown"} if any(wanted) else set()
    )


def test_the_value_of_keeping_wants_the_same_questions() -> None:
    keep, drop = result("a", KEEP, [1, 0, 1]), result("a", DROP, [1, 0, 1])
    other = drop.part(np.array([True, False, True]))
    with pytest.raises(EvaluationError, match="same questions"):
        keeping_values(keep, other, "f1")


def test_over_sets_each_counts_the_same_and_one_without_such_questions_does_not() -> None:
    """Yes/no questions have no answer to look for in what expands."""
    results = [
        *(result("a", m, [f] * 30) for m, f in ((KEEP, 0.5), (DROP, 0.25))),
        *(result("b", m, [f] * 10, ["yes/no"] * 10) for m, f in ((KEEP, 0.5), (DROP, 1.0))),
    ]
    both = summarise(results)[-1]
    assert both["set"] == ALL_SETS
    rows = {row["of"]: row for row in both["keeping"]}
    assert rows["all"]["f1"] == pytest.approx((0.25 - 0.5) / 2)
    assert rows["not shown"]["f1"] == pytest.approx(0.25)
    assert (rows["all"]["items"], rows["not shown"]["items"]) == (40, 30)


def test_intervals_are_over_questions_and_over_clusters() -> None:
    """Twenty questions on each of thirty passages are not six hundred independent cases."""
    rng = np.random.default_rng(0)
    first, other = (np.repeat(rng.random(30), 20) for _ in range(2))
    passages = [[f"p{i // 20}"] for i in range(600)]
    results = [
        result("a", KEEP, other, passages=passages),
        result("a", DROP, np.full(600, 0.6), passages=passages),
        result("a", FULL, first, passages=passages),
    ]
    (table,) = summarise(results)
    assert table["clusters"] == {"passages": 30, "articles": 30}
    for row in (table["keeping"][0], table["pairs"][0], table["rows"][0]):
        widths = [np.ptp(row[f"f1_interval{suffix}"]) for suffix in ("", "_passages", "_articles")]
        assert widths[1] > 3 * widths[0]
        assert widths[2] == widths[1]
    low, high = table["pairs"][0]["f1_interval"]
    assert not low < 0 < high  # fooled
    assert table["pairs"][0]["f1_p"] > 0.05  # signs of a passage's questions flip together
    text = qa_markdown([table], chunk_size=4)
    assert "The questions are on 30 passages of 30 articles." in text
    assert "F1, by passage" in text


def test_too_few_clusters_have_no_interval() -> None:
    passages = [[f"p{i % (FEWEST_CLUSTERS - 1)}"] for i in range(200)]
    f1 = np.random.default_rng(0).random(200)
    (table,) = summarise([result("a", m, f1, passages=passages) for m in (KEEP, DROP)])
    assert table["keeping"][0]["f1_interval_passages"] is None
    assert table["rows"][0]["f1_interval_articles"] is None
    assert table["rows"][0]["f1_interval"] is not None
    assert "| - |" in qa_markdown([table], chunk_size=4)


def test_articles_are_titles_and_a_passage_without_one_is_its_own() -> None:
    untitled = result("a", FULL, [1.0] * 4, passages=[["p1"], ["p2"], ["p3"], ["p3", "p4"]])
    titled = Result(**{**vars(untitled), "titles": [["A"], ["A"], [""], ["", "B"]]})
    assert titled.clusters("passage").tolist() == [0, 1, 2, 2]
    assert titled.clusters("article").tolist() == [0, 0, 1, 1]


def test_questions_without_an_answer_are_judged_by_refusals_alone() -> None:
    kinds = ["number", "phrase", "unanswerable", "unanswerable", "unanswerable", "unanswerable"]
    f1 = [1.0, 0.0] + [np.nan] * 4
    refused = [0, 1, 1, 1, 1, 0]
    results = [
        result("a", FULL, f1, kinds, refused=refused, log_ppl=[1, 3, 5, 5, 5, 5]),
        result("a", KEEP, f1, kinds, refused=[0] * 6, log_ppl=[1, 3, 5, 5, 5, 5]),
        result("b", FULL, [0.0, 0.0], refused=[0, 0], log_ppl=[4, 4]),
        result("b", KEEP, [0.0, 0.0], refused=[0, 0], log_ppl=[4, 4]),
    ]
    tables = {(table["set"], table["judged"]): table for table in summarise(results)}
    assert {*tables} == {
        ("a", "answers"),
        ("b", "answers"),
        (ALL_SETS, "answers"),
        ("a", "refusals"),
    }
    answers, refusals = tables["a", "answers"], tables["a", "refusals"]
    assert (answers["items"], refusals["items"]) == (2, 4)
    assert answers["rows"][0]["f1"] == 0.5
    assert answers["rows"][0]["log_ppl"] == 2.0
    assert answers["rows"][0]["refused"] == 0.5  # though there is an answer
    assert refusals["rows"][0]["refused"] == 0.75
    assert refusals["rows"][0]["log_ppl"] == 5.0
    assert "f1" not in refusals["rows"][0]
    assert tables[ALL_SETS, "answers"]["rows"][0]["f1"] == 0.25
    text = qa_markdown(list(tables.values()), chunk_size=4)
    assert "## a: 4 questions without an answer, 5 passages, given" in text
    assert "nan" not in text


def test_contexts_that_were_cut_are_counted() -> None:
    (table,) = summarise(
        [result("a", FULL, [1.0] * 3, cut=[1, 0, 1]), result("a", KEEP, [1.0] * 3)]
    )
    assert [row["cut"] for row in table["rows"]] == [2, 0]
    text = qa_markdown([table], chunk_size=4)
    assert "cut to what fits the decoder's window: full context: 2." in text
