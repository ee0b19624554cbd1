"""Questions tokenised ahead must become what the generator lays out for a user."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import (
    KINDS,
    Conversation,
    Kind,
    QuestionSet,
    Row,
    ShownPassage,
    batch_logits,
    batch_vectors,
    build_batch,
    lay_out,
)
from refrag_components.corpus.cloze import ClozeForm
from refrag_components.corpus.conversations import UNANSWERABLE
from refrag_components.corpus.prepare_questions import prepare_questions
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.evaluation.answers.messages import messages
from refrag_components.exceptions import TrainingError
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Request
from refrag_components.modeling import RefragModel
from refrag_components.prompts.rendering import render
from tests.tiny import TEXT

LONG = " ".join(TEXT)  # more than the tiny encoder's window


def record(number: int, text: str, answers: list[str], gold: str, *others: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": text,
        "answers": answers,
        "passages": [{"id": str(i), "text": own} for i, own in enumerate((gold, *others))],
        "gold": ["0"] if answers else [],
        "meta": {"related": ["0"]},
    }


RECORDS = [
    *(
        record(i, f"Where is harbour {i}?", ["north of it", "it is north of it"], TEXT[0], TEXT[1])
        for i in range(62)
    ),
    record(62, "Who spells out <|im_end|> here?", ["the <|im_end|> one"], LONG),
    record(63, "Who rowed?", [], TEXT[2], TEXT[3]),
]


@pytest.fixture(scope="module")
def questions(tiny_model: RefragModel, tmp_path_factory: pytest.TempPathFactory) -> QuestionSet:
    folder = tmp_path_factory.mktemp("questions")
    for name, own in (("many", RECORDS), ("one", [record(0, "Up?", ["yes"], TEXT[4])])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in own))
    files = [folder / "many.jsonl", folder / "one.jsonl"]
    prepare_questions(
        files, tiny_model.tokenizer, tiny_model.retriever, folder / "prepared", retrieved=2
    )
    return QuestionSet.load(folder / "prepared")


def drawn(
    questions: QuestionSet, count: int = 60, *, passages: int = 3, max_tokens: int = 2048
) -> list[Conversation]:
    rng = np.random.default_rng(0)
    return [questions.draw(passages, max_tokens, rng) for _ in range(count)]


def laid_out(
    row: Conversation,
    questions: QuestionSet,
    kind: Kind = "compressed",
    *,
    rung: int = 4,
    rungs: tuple[int, ...] = (4, 8, 16),
    share: float = 0.25,
    seed: int = 0,
) -> Row:
    rng = np.random.default_rng(seed)
    return lay_out(row, questions, kind=kind, share=share, rung=rung, rungs=rungs, rng=rng)


def shown(row: Row) -> list[ShownPassage]:
    return [part for part in row.parts if isinstance(part, ShownPassage)]


def decoded(model: RefragModel, ids: Any) -> str:
    return str(model.tokenizer.decode(ids))


def test_a_row_is_the_layout_of_its_messages(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    """The prompt that `refrag eval qa` asks, laid out by the generator: the same positions."""
    generator = RefragGenerator(tiny_model, policy="none", rest="compress")
    compared = 0
    for row in drawn(questions):
        texts = [decoded(tiny_model, questions.passage(n)) for n in row.passages[0].tolist()]
        parts = render(messages(row.question, texts), tiny_model.tokenizer)
        layout = generator.prepare(Request(parts, row.question)).layout
        segments = [s.token_ids for s in layout.segments if isinstance(s, TextSegment)]
        begins, ends = ([*row.texts[i]] == [*segments[i]] for i in (0, -1))
        if len(row.passages) > 1 or not (begins and ends):
            continue  # another prompt shape, or earlier turns
        compared += 1
        built = build_batch([laid_out(row, questions, rungs=(4,))], chunk_size=4, rungs=(4,))
        ids, index = _flat(layout)
        assert built.token_ids[0, : len(ids)].tolist() == ids
        assert (built.chunk_index[0, : len(ids)] >= 0).tolist() == index
        vectors = torch.cat([own.flatten(0, 1) for own in batch_vectors(tiny_model, built)])
        placed = vectors[built.chunk_index[built.chunk_index >= 0]].numpy()
        stored = [s.vectors.vectors for s in layout.segments if isinstance(s, PassageSegment)]
        np.testing.assert_allclose(placed, np.concatenate(stored), atol=5e-3)
    assert compared > 2


def test_further_questions_are_turns_of_the_chat_that_the_passages_answer(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    form = ClozeForm.of(tiny_model.tokenizer)
    rng = np.random.default_rng(0)
    answered = 0
    for _ in range(40):
        row = questions.draw(3, 2048, rng, most=3)
        assert len(row.further) <= 2
        built = lay_out(
            row, questions, kind="text", share=0.0, rung=4, rungs=(4,), rng=rng, form=form
        )
        said = [decoded(tiny_model, row.answer)]
        for asked, answer in row.further:
            question = decoded(tiny_model, asked).strip()
            assert question != row.question
            assert question in questions.meta.questions
            start, end = "\n<|im_start|>", "<|im_end|>\n<|im_start|>assistant\n"
            said += [f"{start}user\n{question}{end}", decoded(tiny_model, answer)]
        assert decoded(tiny_model, built.tail) == "".join(said)
        assert decoded(tiny_model, built.tail[built.counted]) == "".join(said[::2])
        answered += len(row.further)
    assert answered > 10


def test_a_teacher_reads_what_answers_and_is_asked_about_the_answers_alone(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    form = ClozeForm.of(tiny_model.tokenizer)
    rng = np.random.default_rng(2)
    for kind in KINDS:
        row = questions.draw(3, 2048, rng, most=3)
        built = build_batch(
            [
                lay_out(
                    row,
                    questions,
                    kind=kind,
                    share=0.3,
                    rung=4,
                    rungs=(4,),
                    rng=rng,
                    form=form,
                    taught=True,
                )
            ],
            chunk_size=4,
            rungs=(4,),
        )
        assert built.full_ids is not None
        assert built.student_index is not None
        assert built.teacher_index is not None
        # Each place predicts an answer's next token, of further questions as well.
        assert len(built.teacher_index) == len(built.labels)
        assert built.student_index.tolist() == built.label_index.tolist()
        (full_ids,) = built.full_ids
        read = decoded(tiny_model, full_ids[0, : int(built.teacher_index[0]) + 1])
        assert row.question in read
        answering = "\n".join(
            decoded(tiny_model, questions.passage(number))
            for turn, shown in enumerate(row.passages, start=1)
            for number in shown.tolist()
            if turn < len(row.passages) or number in row.answering or not len(row.answering)
        )
        for number in row.passages[-1].tolist():
            text = decoded(tiny_model, questions.passage(number))
            assert (text in read) == (text in answering)


def test_further_questions_need_no_passage_that_is_not_shown(questions: QuestionSet) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        row = questions.draw(2, 2048, rng, most=5)
        asked = {tuple(tokens) for tokens, _ in row.further}
        there = set(row.passages[-1].tolist())
        for n in range(len(questions)):
            if tuple(questions._question_ids(n)) in asked:
                assert there.issuperset(questions._needed(n).tolist())


def _flat(layout: Layout) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    is_chunk: list[bool] = []
    for segment in layout.segments:
        if isinstance(segment, TextSegment):
            ids += segment.token_ids.tolist()
            is_chunk += [False] * len(segment.token_ids)
        else:
            ids += [0] * segment.vectors.n_chunks
            is_chunk += [True] * segment.vectors.n_chunks
    return ids, is_chunk


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answers_count(
    kind: Kind, layered_model: RefragModel, questions: QuestionSet
) -> None:
    rows = drawn(questions)
    batch = build_batch(
        [laid_out(row, questions, kind) for row in rows], chunk_size=4, rungs=(4, 8, 16)
    )
    answers = {"north of it", "the <|im_end|> one", UNANSWERABLE, "yes"}
    end = layered_model.tokenizer.eos_token_id
    seen = set()
    labels = iter(batch.labels.tolist())
    for row in rows:
        kept = [next(labels) for _ in row.answer]
        assert kept == row.answer.tolist()
        assert kept[-1] == end
        assert end not in kept[:-1]  # spelled out, it is plain text
        seen.add(decoded(layered_model, kept[:-1]))
    assert next(labels, None) is None
    assert seen == answers
    assert (batch.groups == ()) == (kind == "text")
    with torch.inference_mode():
        assert len(batch_logits(layered_model, batch)) == len(batch.labels)


def test_what_a_kind_expands(questions: QuestionSet) -> None:
    rows = [row for row in drawn(questions, 200) if len(row.passages) == 1]
    rows = [row for row in rows if set(row.passages[0]) - set(row.needed)]
    expanded: dict[Kind, dict[bool, list[bool]]] = {k: {True: [], False: []} for k in KINDS}
    for seed, row in enumerate(rows):
        for kind in KINDS:
            for own in shown(laid_out(row, questions, kind, seed=seed)):
                expanded[kind][own.key in row.needed] += own.expanded.tolist()
    share = {
        kind: {needed: np.mean(own) for needed, own in by.items()} for kind, by in expanded.items()
    }
    assert share["compressed"] == {True: 0, False: 0}
    assert share["text"] == {True: 1, False: 1}
    assert share["wrong"][True] == 0
    assert share["wrong"][False] > 0.4
    assert share["gold"][True] == pytest.approx(0.6, abs=0.15)
    assert share["gold"][False] < 0.2
    for needed in (True, False):
        assert share["runs"][needed] == pytest.approx(0.25, abs=0.15)
    assert 0 < np.mean([*expanded["ladder"][True], *expanded["ladder"][False]]) < 0.8


def asked_in_words_of_its_own(questions: QuestionSet) -> tuple[Conversation, QuestionSet, int]:
    """A question that shares tokens with the passage that answers it and with no other."""
    row = next(r for r in drawn(questions, passages=5) if len(r.passages[-1]) == 5)
    gold = int(row.needed[0])
    others = [questions.passage(n) for n in row.passages[-1].tolist() if n != gold]
    own = np.setdiff1d(questions.passage(gold), np.concatenate(others))
    assert len(own)
    rarity = np.full(len(questions.rarity), 9.0)
    return replace(row, question_ids=own), replace(questions, rarity=rarity), gold


def test_runs_that_share_rare_words_with_the_question_expand(questions: QuestionSet) -> None:
    row, questions, gold = asked_in_words_of_its_own(questions)
    expanded: dict[Any, list[bool]] = {}
    for seed in range(20):
        for own in shown(laid_out(row, questions, "rare", share=0.05, seed=seed)):
            expanded.setdefault(own.key == gold, []).append(bool(own.expanded.any()))
    assert np.mean(expanded[True]) > 0.9
    assert np.mean(expanded[False]) < 0.1


def test_a_ladder_has_finer_rungs_for_better_passages(questions: QuestionSet) -> None:
    row, questions, gold = asked_in_words_of_its_own(questions)
    orders: dict[int, list[int]] = {}
    seen = set()
    for seed in range(60):
        for own in shown(laid_out(row, questions, "ladder", seed=seed)):
            assert isinstance(own.key, int)
            orders.setdefault(own.key, []).append(own.rung or 99)
            seen.add(own.rung)
    assert seen >= {4, 8, 16}
    means = {key: np.mean(rungs) for key, rungs in orders.items()}
    assert min(means, key=lambda key: means[key]) == gold


def test_what_does_not_expand_is_dropped_or_kept_of_the_best_passage_alone(
    questions: QuestionSet,
) -> None:
    row, questions, gold = asked_in_words_of_its_own(questions)
    kept = []
    for seed in range(60):
        passages = shown(laid_out(row, questions, "dropped", share=0.05, seed=seed))
        kept.append({own.key for own in passages if own.rung})
        assert {own.rung for own in passages} <= {0, 4}
        assert any(own.key == gold and own.has_position.any() for own in passages)
    assert {len(keys) for keys in kept} >= {0, 1}
    assert sum(gold in keys for keys in kept) > sum(bool(keys - {gold}) for keys in kept) * 3


@pytest.mark.parametrize("kind", KINDS)
def test_no_passages_are_no_reason_to_fail(kind: Kind, questions: QuestionSet) -> None:
    row = drawn(questions, 1)[0]
    none = [np.zeros(0, dtype=np.int64) for _ in row.passages]
    for seed in range(5):
        assert shown(laid_out(replace(row, passages=none), questions, kind, seed=seed)) == []


def test_with_the_rest_dropped_what_answers_has_a_position(questions: QuestionSet) -> None:
    for seed, row in enumerate(drawn(questions, 60)):
        passages = shown(laid_out(row, questions, "dropped", share=0.01, seed=seed))
        there = {own.key for own in passages if own.has_position.any()}
        assert there >= set(row.needed.tolist()) & set(row.passages[-1].tolist())


def test_runs_are_whole_and_fit_the_rungs(questions: QuestionSet) -> None:
    for row in drawn(questions, 30):
        for kind in ("runs", "rare", "gold", "ladder", "dropped"):
            for own in shown(laid_out(row, questions, kind)):
                changes = np.flatnonzero(np.diff(own.expanded)) + 1
                assert (changes % 32 == 0).all()


@pytest.mark.parametrize("kind", ["wrong", "runs", "ladder", "dropped"])
def test_passages_of_earlier_turns_stay_compressed(kind: Kind, questions: QuestionSet) -> None:
    rows = [row for row in drawn(questions, 200, passages=2) if len(row.passages) > 1]
    assert rows
    for row in rows:
        earlier = sum(len(own) for own in row.passages[:-1])
        passages = shown(laid_out(row, questions, kind, rung=8, share=0.9))
        assert [own.key for own in passages[:earlier]] == np.concatenate(row.passages)[
            :earlier
        ].tolist()
        assert not any(own.expanded.any() or own.rung != 8 for own in passages[:earlier])


def test_earlier_turns_are_asked_and_answered_before(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    shapes = set()
    for row in drawn(questions, 300, passages=2):
        text = "".join(decoded(tiny_model, part) for part in row.texts)
        turns = text.count("<|im_start|>assistant")
        assert text.count("<|im_start|>user") == turns <= 3
        assert len(row.passages) in (1, turns)
        assert text.count("north of it") == (turns - 1)  # all partners have that answer
        assert row.question in text
        assert decoded(tiny_model, row.question_ids) == f" {row.question}"
        shapes.add((turns, len(row.passages)))
    assert {(1, 1), (2, 1), (2, 2), (3, 3)} <= shapes


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 150), st.integers(0, 1000))
def test_passages_that_answer_come_first_and_keep_to_the_limits(
    questions: QuestionSet, passages: int, max_tokens: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        row = questions.draw(passages, max_tokens, rng)
        taken = 0
        for own in row.passages:
            assert len(own) <= passages
            assert len(set(own.tolist())) == len(own)
            taken += int(questions.shown_lengths[own].sum())
        assert taken <= max_tokens
        if row.question.startswith("Where") and max_tokens >= questions.lengths[0]:
            assert 0 in row.passages[-1]  # the first passage of all is theirs


def test_many_passages_are_filled_up_with_any(questions: QuestionSet) -> None:
    most = max(len(row.passages[-1]) for row in drawn(questions, 60, passages=6))
    assert most > 3  # each question came with two, and search returned two more


def test_small_files_are_not_drowned_by_large_ones(questions: QuestionSet) -> None:
    rows = drawn(questions, 2000)
    share = np.mean([row.question == "Up?" for row in rows])
    assert share == pytest.approx(1 / (1 + len(RECORDS) ** 0.5), abs=0.04)


def test_sets_can_be_held_out(questions: QuestionSet) -> None:
    alone = questions.without(["many"])
    assert {row.question for row in drawn(alone, 20)} == {"Up?"}
    with pytest.raises(TrainingError, match=r"'mnay', of which .*; did you mean many\?"):
        questions.without(["mnay"])
    with pytest.raises(TrainingError, match=r"'other', of which .*; known are many, one"):
        questions.without(["other"])
    with pytest.raises(TrainingError, match="leaves no questions"):
        questions.without(["one", "many"])


def test_a_row_padded_on_the_right_has_the_logits_of_the_row_alone(
    layered_model: RefragModel, questions: QuestionSet
) -> None:
    rows = sorted((laid_out(row, questions) for row in drawn(questions)), key=lambda r: r.positions)
    both = build_batch([rows[0], rows[-1]], chunk_size=4, rungs=(4, 8, 16))
    alone = build_batch(rows[:1], chunk_size=4, rungs=(4, 8, 16))
    assert both.token_ids.shape[1] > alone.token_ids.shape[1]
    with torch.inference_mode():
        first = batch_logits(layered_model, both)[: len(alone.labels)]
        second = batch_logits(layered_model, alone)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_what_is_no_prepared_folder_is_refused(tmp_path: Path, tiny_model: RefragModel) -> None:
    with pytest.raises(TrainingError, match="refrag train questions"):
        QuestionSet.load(tmp_path)
    with pytest.raises(TrainingError, match="exists"):
        prepare_questions([], tiny_model.tokenizer, tiny_model.retriever, tmp_path)
