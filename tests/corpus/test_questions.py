"""Several folders of prepared questions are one set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.corpus.prepare_questions import prepare_questions
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from tests.tiny import TEXT

#: Source files by name: the question about each passage, the one it needs and its distractor.
FILES = {
    "harbours": [("Where is it?", TEXT[0], TEXT[1]), ("What yields?", TEXT[1], TEXT[0])],
    "weather": [("How long?", TEXT[2], TEXT[3])],
    "prices": [("How much?", TEXT[4], " ".join(TEXT))],
}


@pytest.fixture(scope="module")
def sets(
    tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, QuestionSet]:
    """Prepared from the first file, from the other two, and from all three together."""
    folder = tmp_path_factory.mktemp("questions")
    for name, asked in FILES.items():
        records = [
            {
                "id": f"{name}-{i}",
                "question": question,
                "answers": ["yes"],
                "passages": [{"id": "0", "text": needed}, {"id": "1", "text": other}],
                "gold": ["0"],
            }
            for i, (question, needed, other) in enumerate(asked)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    made = {}
    for name, files in (
        ("first", ["harbours"]),
        ("others", ["weather", "prices"]),
        ("all", [*FILES]),
    ):
        prepare_questions(
            [folder / f"{file}.jsonl" for file in files],
            tiny_model.tokenizer,
            tiny_model.retriever,
            folder / name,
            retrieved=1,
        )
        made[name] = QuestionSet.load(folder / name)
    return made


@pytest.fixture(scope="module")
def joined(sets: dict[str, QuestionSet]) -> QuestionSet:
    return QuestionSet.joined([sets["first"], sets["others"]])


def test_a_joined_set_holds_what_its_parts_hold(
    sets: dict[str, QuestionSet], joined: QuestionSet
) -> None:
    assert len(joined) == len(sets["first"]) + len(sets["others"])
    assert joined.meta.sets == [*FILES]
    parts = [sets["first"], sets["others"]]
    passages = [part.passage(i).tolist() for part in parts for i in range(len(part.lengths))]
    assert [joined.passage(i).tolist() for i in range(len(joined.lengths))] == passages


def test_what_is_drawn_needs_the_passage_that_its_question_came_with(
    tiny_model: RefragModel, joined: QuestionSet
) -> None:
    decode = tiny_model.tokenizer.decode
    needed = {question: text for own in FILES.values() for question, text, _ in own}
    first = {text for _, *texts in FILES["harbours"] for text in texts}
    others = {text for name in ("weather", "prices") for _, *texts in FILES[name] for text in texts}
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        row = joined.draw(2, 2048, rng)
        texts = {decode(joined.passage(n)) for n in row.passages[-1].tolist()}
        assert [decode(joined.passage(n)) for n in row.needed] == [needed[row.question]]
        assert needed[row.question] in texts
        assert len(texts) == 2
        assert texts <= first or texts <= others  # distractors are those of its part
        assert decode(row.question_ids) == f" {row.question}"
        assert decode(row.answer[:-1]) == "yes"
        seen.add(row.question)
    assert seen == {*needed}


def test_a_token_is_as_rare_as_if_all_had_been_prepared_together(
    sets: dict[str, QuestionSet], joined: QuestionSet
) -> None:
    together = sets["all"].rarity
    rare = together > np.log(2)  # what most passages have is clipped within a part
    assert rare.any()
    np.testing.assert_allclose(joined.rarity[rare], together[rare], atol=1e-5)
    assert joined.rarity.dtype == np.float32
    assert joined.rarity.min() >= 0


def test_files_of_any_part_can_be_held_out(joined: QuestionSet) -> None:
    rng = np.random.default_rng(0)
    left = joined.without(["harbours", "prices"])
    assert {left.draw(2, 2048, rng).question for _ in range(20)} == {"How long?"}
    left = joined.without(["weather", "prices"])
    assert {left.draw(2, 2048, rng).question for _ in range(20)} == {"Where is it?", "What yields?"}


def test_parts_that_do_not_go_together_are_refused(sets: dict[str, QuestionSet]) -> None:
    first, every = sets["first"], sets["all"]
    assert QuestionSet.joined([first]) is first
    with pytest.raises(TrainingError, match="the set harbours is in two of the folders"):
        QuestionSet.joined([first, every])
    other = replace(sets["others"], corpus=TokenisedCorpus(first.corpus.tokens, "another"))
    with pytest.raises(TrainingError, match="tokenizers of two decoders"):
        QuestionSet.joined([first, other])
