"""What the question needs is read, within the budget."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refrag_components.exceptions import BudgetError, EmptyInputError, UnknownPolicyError
from refrag_components.excerpts import UNITS, Excerpter, Unit
from refrag_components.generation.passage_loader import PassageLoader
from refrag_components.modeling import RefragModel
from refrag_components.policies import Policy, PolicyInputs
from refrag_components.prompts.parts import PassagePart
from refrag_components.stores.memory import MemoryStore
from tests.tiny import TEXT

PASSAGES = [
    "The harbour of Eastport was dug in 1907. It holds ten ships. Nobody swims there.",
    "Rain fell for three days. The river rose by two metres.",
    "",
]


class FirstChunks(Policy):
    """The earlier a chunk, the better."""

    name: ClassVar[str] = "first"

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        return -np.arange(inputs.n_chunks, dtype=np.float32)


def words(texts: list[str]) -> list[int]:
    """Tokens of a model that reads words."""
    return [len(text.split()) for text in texts]


def excerpter(model: RefragModel, **options: object) -> Excerpter:
    """With the first chunks as the best ones."""
    chosen = {"policy": FirstChunks(), "count_tokens": words} | options
    return Excerpter(model, **chosen)  # type: ignore[arg-type]


def test_the_best_sentences_are_read_in_order(tiny_model: RefragModel) -> None:
    first, second, third = excerpter(tiny_model, budget=12).extract("When?", PASSAGES)
    assert first.text == "The harbour of Eastport was dug in 1907. It holds ten ships."
    assert (second.text, third.text, third.spans) == ("", "", ())
    assert [PASSAGES[0][a:b] for a, b in first.spans] == [first.text]
    assert first.score > second.score


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(
    budget=st.one_of(st.integers(2, 40), st.floats(0, 1)),
    unit=st.sampled_from(["words", "sentences"]),
)
def test_a_budget_holds_and_excerpts_quote(
    tiny_model: RefragModel, budget: float, unit: str
) -> None:
    made = excerpter(tiny_model, budget=budget, unit=unit).extract("When?", PASSAGES)
    limit = budget if budget > 1 else budget * sum(words(PASSAGES))
    assert sum(words([excerpt.text for excerpt in made])) <= limit
    for text, each in zip(PASSAGES, made, strict=True):
        assert " […] ".join(text[start:end] for start, end in each.spans) == each.text


def test_all_of_it_fits_its_own_size(tiny_model: RefragModel) -> None:
    made = excerpter(tiny_model, budget=1.0).extract("When?", PASSAGES)
    assert [excerpt.text for excerpt in made] == PASSAGES


def test_what_is_protected_is_read_beyond_the_budget(tiny_model: RefragModel) -> None:
    made = excerpter(tiny_model, budget=0.0, protect=[r"two metres"]).extract("When?", PASSAGES)
    assert [excerpt.text for excerpt in made] == ["", "The river rose by two metres.", ""]


def test_auto_reads_the_upper_group(tiny_model: RefragModel) -> None:
    made = excerpter(tiny_model, budget="auto").extract("When?", PASSAGES)
    assert made[0].text.startswith("The harbour")
    assert sum(words([excerpt.text for excerpt in made])) < sum(words(PASSAGES))


def test_auto_reads_the_upper_group_beside_what_is_protected(tiny_model: RefragModel) -> None:
    alone = excerpter(tiny_model, budget="auto").extract("When?", PASSAGES)
    made = excerpter(tiny_model, budget="auto", protect=["two metres"]).extract("When?", PASSAGES)
    assert made[1].text.endswith("The river rose by two metres.")
    assert made[0] == alone[0]


def test_a_pattern_that_also_matches_nothing_protects_what_it_matches(
    tiny_model: RefragModel,
) -> None:
    made = excerpter(tiny_model, budget=0.0, protect=[r"\d*"]).extract("When?", PASSAGES)
    assert [excerpt.text for excerpt in made] == [
        "The harbour of Eastport was dug in 1907.",
        "",
        "",
    ]


@pytest.mark.parametrize("unit", UNITS)
def test_a_budget_of_all_tokens_reads_all_of_it(tiny_model: RefragModel, unit: Unit) -> None:
    passages = [*TEXT, *PASSAGES]
    made = Excerpter(tiny_model, budget=1.0, unit=unit).extract("When?", passages)
    assert [excerpt.text for excerpt in made] == passages


def test_tokens_are_those_of_the_decoder_by_default(tiny_model: RefragModel) -> None:
    ids = tiny_model.chunker.chunk([PASSAGES[1]])[0].token_ids
    whole = Excerpter(tiny_model, budget=len(ids)).extract("When?", [PASSAGES[1]])
    assert whole[0].text == PASSAGES[1]
    less = Excerpter(tiny_model, budget=len(ids) - 1).extract("When?", [PASSAGES[1]])
    assert less[0].text != PASSAGES[1]


def test_chunk_vectors_are_found_where_a_retriever_put_them(tiny_model: RefragModel) -> None:
    """It strips what it retrieves."""
    store = MemoryStore()
    PassageLoader(tiny_model, store, waits=True).load([PassagePart(PASSAGES[0])])
    keys = [*store.yield_keys()]
    padded = f"\n  {PASSAGES[0]}\n\n"
    made = excerpter(tiny_model, store=store, budget=0.7).extract("When?", [padded])
    assert [*store.yield_keys()] == keys
    assert made[0].text
    assert [padded[start:end] for start, end in made[0].spans] == made[0].text.split(" […] ")


TABLE = "| day | fare |\n|---|---|\n| Monday | 3 |\n| Tuesday | 4 |\n| Wednesday | 5 |"


class LastChunks(FirstChunks):
    """The later a chunk, the better."""

    def scores(self, inputs: PolicyInputs) -> np.ndarray:
        return -super().scores(inputs)


@pytest.mark.parametrize("unit", UNITS)
def test_rows_of_a_table_come_with_its_head(tiny_model: RefragModel, unit: Unit) -> None:
    found = excerpter(tiny_model, policy=LastChunks(), budget=20, unit=unit)
    (made,) = found.extract("How much?", [TABLE])
    assert made.text.startswith("| day | fare |\n|---|---|\n| […] |\n")
    assert made.text.endswith("| Wednesday | 5 |")
    assert "Monday" not in made.text
    (made,) = excerpter(tiny_model, policy=LastChunks(), budget="auto").extract("How?", [TABLE])
    assert made.text.startswith("| day | fare |")


def test_a_head_that_leaves_no_room_is_let_go(tiny_model: RefragModel) -> None:
    long = f"| {'day of the week ' * 9} | fare |\n|---|---|\n| Monday | 3 |"
    (made,) = excerpter(tiny_model, policy=LastChunks(), budget=5).extract("How much?", [long])
    assert made.text == "| Monday | 3 |"


def test_of_a_best_sentence_that_does_not_fit_words_are_read(tiny_model: RefragModel) -> None:
    (made, *others) = excerpter(tiny_model, budget=5).extract("When?", PASSAGES)
    assert made.text
    assert "1907. It" not in made.text
    assert PASSAGES[0].startswith(made.text.split(" […] ")[0])
    assert sum(words([made.text, *(each.text for each in others)])) <= 5


def test_a_budget_that_holds_nothing_is_said(
    tiny_model: RefragModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        made = excerpter(tiny_model, budget=0.001).extract("When?", PASSAGES)
        assert "holds nothing of the passages" in caplog.text
    assert [each.text for each in made] == ["", "", ""]
    caplog.clear()
    excerpter(tiny_model, budget=0.0).extract("When?", PASSAGES)  # that was asked for
    assert not caplog.text


def test_no_passages_are_no_error(tiny_model: RefragModel) -> None:
    assert excerpter(tiny_model).extract("When?", []) == []
    assert excerpter(tiny_model).extract("When?", [" "])[0].text == ""


@pytest.mark.parametrize("budget", [-1, 1.5, True, "much", float("nan"), None])
def test_odd_budgets_are_refused(tiny_model: RefragModel, budget: object) -> None:
    with pytest.raises(BudgetError, match="fraction of the tokens"):
        excerpter(tiny_model, budget=budget)


def test_other_mistakes_are_named(tiny_model: RefragModel) -> None:
    with pytest.raises(ValueError, match="'sentences' or 'words'"):
        excerpter(tiny_model, unit="pages")
    with pytest.raises(ValueError, match="not a regular expression"):
        excerpter(tiny_model, protect=["("])
    with pytest.raises(ValueError, match="protect: '1907' is one text"):
        excerpter(tiny_model, protect="1907")
    with pytest.raises(UnknownPolicyError):
        excerpter(tiny_model, policy="clairvoyance")
    with pytest.raises(EmptyInputError, match="question is empty"):
        excerpter(tiny_model).extract(" ", PASSAGES)
