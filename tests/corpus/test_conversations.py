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
    IGNORED,
    Batch,
    Conversation,
    ConversationSpec,
    QuestionSet,
    batch_logits,
    lay_out_conversations,
)
from refrag_components.corpus.conversations import UNANSWERABLE
from refrag_components.corpus.prepare_questions import prepare_questions
from refrag_components.engines.layout import Layout, PassageSegment, TextSegment
from refrag_components.evaluation.answers.prompts import messages
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
    prepare_questions(files, tiny_model, folder / "prepared", retrieved=2)
    return QuestionSet.load(folder / "prepared")


def drawn(questions: QuestionSet, spec: ConversationSpec, count: int = 60) -> list[Conversation]:
    return questions.draw(count, spec, np.random.default_rng(0))


def lay_out(
    rows: list[Conversation],
    spec: ConversationSpec,
    questions: QuestionSet,
    model: RefragModel,
    **more: bool,
) -> Batch:
    rng = np.random.default_rng(1)
    return lay_out_conversations(rows, spec, questions, encoder=model.encoder, rng=rng, **more)


def decoded(model: RefragModel, ids: Any) -> str:
    return str(model.tokenizer.decode(ids))


def text_of(questions: QuestionSet, number: int, model: RefragModel) -> str:
    start = questions.starts[number]
    return decoded(model, questions.corpus.tokens[start : start + questions.lengths[number]])


def test_a_row_is_the_layout_of_its_messages(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    """The prompt that `refrag eval qa` asks, laid out by the generator: the same positions."""
    spec = ConversationSpec(chunk_size=4, expanded=0.0, passages=3)
    generator = RefragGenerator(tiny_model, policy="none")
    compared = 0
    for row in drawn(questions, spec):
        texts = [text_of(questions, n, tiny_model) for n in row.passages[0]]
        parts = render(messages(row.question, texts), tiny_model.tokenizer)
        layout = generator.prepare(Request(parts, row.question)).layout
        segments = [s.token_ids for s in layout.segments if isinstance(s, TextSegment)]
        begins, ends = ([*row.texts[i]] == [*segments[i]] for i in (0, -1))
        if len(row.passages) > 1 or not (begins and ends):
            continue  # another prompt shape, or earlier turns
        compared += 1
        batch = lay_out([row], spec, questions, tiny_model)
        end = batch.token_ids.shape[1] + 1 - len(row.answer)
        ids, index = _flat(layout)
        assert batch.token_ids[0, :end].tolist() == ids
        assert (batch.chunk_index[0, :end] >= 0).tolist() == index
        vectors = tiny_model.encoder(batch.pieces, batch.piece_mask, batch.spans)
        vectors = vectors.flatten(0, 1)[batch.span_index].detach().numpy()
        stored = [s.vectors.vectors for s in layout.segments if isinstance(s, PassageSegment)]
        np.testing.assert_allclose(vectors, np.concatenate(stored), atol=5e-3)
    assert compared > 2


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


@pytest.mark.parametrize("expanded", [0.0, 0.5, 1.0])
def test_only_the_answers_count(
    expanded: float, tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=expanded, passages=3)
    rows = drawn(questions, spec)
    batch = lay_out(rows, spec, questions, tiny_model, with_full_text=True)
    assert batch.answer_index is not None
    flat = batch.labels.flatten()[batch.answer_index]
    assert flat.tolist() == batch.labels[batch.labels != IGNORED].tolist()
    answers = {"north of it", "the <|im_end|> one", UNANSWERABLE, "yes"}
    seen = set()
    for row, labels in zip(rows, batch.labels, strict=True):
        kept = labels[labels != IGNORED].tolist()
        assert kept == row.answer.tolist()
        assert kept[-1] == tiny_model.tokenizer.eos_token_id
        assert tiny_model.tokenizer.eos_token_id not in kept[:-1]  # spelled out, it is plain text
        seen.add(decoded(tiny_model, kept[:-1]))
    assert seen == answers
    used = batch.chunk_index[batch.chunk_index >= 0]
    assert len(set(used.tolist())) == len(used)
    assert (len(used) == 0) == (expanded == 1.0) == (batch.full_ids is None)
    assert batch_logits(tiny_model, batch).shape[:2] == batch.labels.shape


def test_the_teacher_reads_what_answers_in_full(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.25, passages=3)
    rows = drawn(questions, spec)
    later = next(row for row in rows if len(row.passages) == 2)
    other = next(n for n in np.flatnonzero(questions.lengths) if n not in later.needed)
    rows += [
        replace(later, passages=[np.array([other]), later.passages[1]]),  # its first turn has none
        replace(rows[0], needed=np.array([], dtype=int)),  # nothing answers: all is read
    ]
    supported = []
    for row in rows:
        alone = [[n for n in shown if n in row.needed] for shown in row.passages]
        if any(alone):
            row = replace(row, passages=[np.array(shown, dtype=int) for shown in alone])
        supported.append(row)
    assert not len(supported[-2].passages[0])
    assert len(supported[-1].passages[-1]) == len(rows[-1].passages[-1]) > 1
    plain = lay_out(supported, replace(spec, expanded=1.0), questions, tiny_model)
    batch = lay_out(rows, spec, questions, tiny_model, with_full_text=True)
    assert batch.full_ids is not None
    assert batch.full_index is not None
    assert torch.equal(batch.full_ids, plain.token_ids)
    full_labels = torch.full(batch.full_ids.shape, IGNORED)
    full_labels[:, -plain.labels.shape[1] :] = plain.labels
    flat = full_labels.flatten()
    assert torch.equal(flat[batch.full_index], batch.labels[batch.labels != IGNORED])
    assert int((flat != IGNORED).sum()) == len(batch.full_index)


@pytest.mark.parametrize(
    ("needed", "supporting"),
    [
        ([7], [[False, False], [True, False, False]]),
        ([3, 9], [[True, False], [False, True, False]]),
        ([0, 1], [[True, True], [True, True, True]]),  # none answers
    ],
)
def test_passages_that_answer_support(needed: list[int], supporting: list[list[bool]]) -> None:
    shown = [np.array([3, 5]), np.array([7, 3, 4])]
    row = Conversation([], shown, np.array(needed), np.array([1]), "?")
    assert [mask.tolist() for mask in row.supporting] == supporting


def test_passages_of_earlier_turns_stay_compressed(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.9, passages=2)
    rows = [row for row in drawn(questions, spec, 200) if len(row.passages) > 1]
    assert rows
    for row in rows:
        batch = lay_out([row], spec, questions, tiny_model)
        earlier = sum(int(-(-questions.lengths[n] // 4)) for n in np.concatenate(row.passages[:-1]))
        compressed = batch.chunk_index[batch.chunk_index >= 0].tolist()
        assert compressed[:earlier] == list(range(earlier))
    last = sum(-(-questions.lengths[row.passages[-1]] // 4).sum() for row in rows)
    assert last > 0


@pytest.mark.parametrize("run", [1, 2, 100])
def test_neighbouring_chunks_expand_together(
    run: int, tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.5, run=run, passages=2)
    rows = [row for row in drawn(questions, spec, 200) if len(row.passages) == 1]
    batch = lay_out(rows, spec, questions, tiny_model)
    left = set(batch.chunk_index[batch.chunk_index >= 0].tolist())
    first, pieces, expanded = 0, [], []
    cuts: set[int] = set()
    for number in np.concatenate([row.passages[0] for row in rows]):
        count = int(-(-questions.lengths[number] // 4))
        own = [first + i not in left for i in range(count)]
        changes = [i for i in range(1, count) if own[i] != own[i - 1]]
        pieces += np.diff(changes).tolist()
        expanded += own
        assert run < 100 or not changes
        cuts |= {change % run for change in changes}
        first += count
    assert all(length % run == 0 for length in pieces)
    assert run == 100 or (run in pieces and cuts == set(range(run)))
    assert np.mean(expanded) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("run", [1, 3])
def test_chunks_of_passages_that_answer_can_be_likelier_to_expand(
    run: int, tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.25, run=run, favour=3.0, passages=3)
    rows = [row for row in drawn(questions, spec, 400) if len(row.passages) == 1]
    batch = lay_out(rows, spec, questions, tiny_model)
    left = set(batch.chunk_index[batch.chunk_index >= 0].tolist())
    first = 0
    expanded: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        assert set(row.needed) & set(row.passages[0])
        for number in row.passages[0]:
            count = int(-(-questions.lengths[number] // 4))
            own = [first + i not in left for i in range(count)]
            expanded[number in row.needed] += own
            first += count
    assert np.mean(expanded[True]) == pytest.approx(0.75, abs=0.05)
    assert np.mean(expanded[False]) == pytest.approx(0.25 / 3, abs=0.03)


def test_earlier_turns_are_asked_and_answered_before(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=1.0, passages=2)
    shapes = set()
    for row in drawn(questions, spec, 300):
        text = "".join(decoded(tiny_model, part) for part in row.texts)
        turns = text.count("<|im_start|>assistant")
        assert text.count("<|im_start|>user") == turns <= 3
        assert len(row.passages) in (1, turns)
        assert text.count("north of it") == (turns - 1)  # all partners have that answer
        assert row.question in text
        shapes.add((turns, len(row.passages)))
    assert {(1, 1), (2, 1), (2, 2), (3, 3)} <= shapes


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 150), st.integers(0, 1000))
def test_passages_that_answer_come_first_and_keep_to_the_limits(
    questions: QuestionSet, passages: int, max_tokens: int, seed: int
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.0, passages=passages, max_tokens=max_tokens)
    for row in questions.draw(10, spec, np.random.default_rng(seed)):
        taken = 0
        for shown in row.passages:
            assert len(shown) <= passages
            assert len(set(shown.tolist())) == len(shown)
            taken += int(np.minimum(questions.lengths[shown], max_tokens).sum())
        assert taken <= max_tokens
        assert len(row.passages[-1])  # at least the passage that answers
        if row.question.startswith("Where"):
            assert 0 in row.passages[-1]  # the first passage of all is theirs


@settings(max_examples=20)
@given(
    st.integers(200, 4000),
    st.sampled_from([(0.0, 1.0), (0.25, 1.0), (0.25, 4.0), (1.0, 1.0)]),
    st.integers(1, 5),
    st.integers(0, 100),
    st.booleans(),
)
def test_a_batch_keeps_to_its_positions(
    tiny_model: RefragModel,
    questions: QuestionSet,
    positions: int,
    expanded: tuple[float, float],
    passages: int,
    seed: int,
    with_full_text: bool,
) -> None:
    p, favour = expanded
    spec = ConversationSpec(chunk_size=4, expanded=p, favour=favour, passages=passages)
    rng = np.random.default_rng(seed)
    rows = questions.fill(positions, spec, rng, with_full_text=with_full_text)
    batch = lay_out(rows, spec, questions, tiny_model, with_full_text=with_full_text)
    teacher = 0 if batch.full_ids is None else batch.full_ids.numel() / 3
    assert len(rows) == 1 or batch.token_ids.numel() + teacher <= 1.3 * positions


def test_small_files_are_not_drowned_by_large_ones(questions: QuestionSet) -> None:
    rows = drawn(questions, ConversationSpec(chunk_size=4, expanded=0.0), 2000)
    share = np.mean([row.question == "Up?" for row in rows])
    assert share == pytest.approx(1 / (1 + len(RECORDS) ** 0.5), abs=0.04)


def test_a_row_padded_on_the_right_has_the_logits_of_the_row_alone(
    tiny_model: RefragModel, questions: QuestionSet
) -> None:
    spec = ConversationSpec(chunk_size=4, expanded=0.0, passages=2)
    rows = sorted(drawn(questions, spec, 20), key=lambda row: sum(map(len, row.texts)))
    rows = [rows[0], rows[-1]]
    both = lay_out(rows, spec, questions, tiny_model)
    alone = lay_out(rows[:1], spec, questions, tiny_model)
    assert both.token_ids.shape[1] > alone.token_ids.shape[1]
    with torch.inference_mode():
        first = batch_logits(tiny_model, both)[0][both.labels[0] != IGNORED]
        second = batch_logits(tiny_model, alone)[0][alone.labels[0] != IGNORED]
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_what_is_no_prepared_folder_is_refused(tmp_path: Path, tiny_model: RefragModel) -> None:
    with pytest.raises(TrainingError, match="refrag train questions"):
        QuestionSet.load(tmp_path)
    with pytest.raises(TrainingError, match="exists"):
        prepare_questions([], tiny_model, tmp_path)
