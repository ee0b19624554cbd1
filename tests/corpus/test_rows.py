"""Rows of text and passages: what has a position, what it stands for, what is compared."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refrag_components.corpus import (
    Batch,
    Row,
    ShownPassage,
    batch_embeddings,
    batch_logits,
    batch_vectors,
    build_batch,
    chunk_table,
    grouping,
)
from refrag_components.corpus.rows import run_tokens
from refrag_components.modeling import RefragModel

K, RUNGS = 4, (4, 8, 16)


def passage(rng: np.random.Generator, length: int, rung: int, p: float) -> ShownPassage:
    runs = rng.random(-(-length // 16)) < p
    ids = rng.integers(3, 400, size=length)
    return ShownPassage(ids, runs.repeat(16)[:length], rung)


def random_row(seed: int, p: float, *, taught: bool = True, every: int = 1) -> Row:
    """Text, some passages on rungs of their own, text between them, and a tail."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray | ShownPassage] = [rng.integers(3, 400, size=3)]
    for _ in range(int(rng.integers(1, 5))):
        rung = int(rng.choice((0, *RUNGS)))
        parts.append(passage(rng, int(rng.integers(1, 70)), rung, p))
        if rng.random() < 0.5:
            parts.append(rng.integers(3, 400, size=2))
    tail = rng.integers(3, 400, size=9)
    counted = rng.random(9) < 0.7
    counted[0] = True
    return Row(parts, tail, counted, imitated=5 if taught else None, every=every)


def build(rows: list[Row]) -> Batch:
    return build_batch(rows, chunk_size=K, rungs=RUNGS)


def read_by_teacher(batch: Batch) -> list[int]:
    """What ``teacher_index`` points into."""
    assert batch.full_ids is not None
    ids: list[int] = torch.cat([group.flatten() for group in batch.full_ids]).tolist()
    return ids


def text_of(row: Row) -> list[int]:
    """The tokens before the tail, if all of them are shown."""
    parts = [part.token_ids if isinstance(part, ShownPassage) else part for part in row.parts]
    ids: list[int] = np.concatenate(parts).tolist()
    return ids


@settings(max_examples=40)
@given(seeds=st.lists(st.integers(0, 999), min_size=1, max_size=4), p=st.sampled_from([0, 0.4, 1]))
def test_token_and_chunk_positions_add_up(seeds: list[int], p: float) -> None:
    rows = [random_row(seed, p) for seed in seeds]
    batch = build(rows)
    for i, row in enumerate(rows):
        chunks = int((batch.chunk_index[i] >= 0).sum())
        expected_chunks = sum(
            int((~part.expanded[:: part.rung]).sum())
            for part in row.parts
            if isinstance(part, ShownPassage) and part.rung
        )
        assert chunks == expected_chunks
        tokens = sum(
            int(part.expanded.sum()) if isinstance(part, ShownPassage) else len(part)
            for part in row.parts
        )
        assert row.positions == chunks + tokens + len(row.tail) - 1
        assert (batch.token_ids[i, row.positions :] == 0).all()
        assert (batch.chunk_index[i, row.positions :] == -1).all()
    labels = [row.tail[row.counted].tolist() for row in rows]
    assert batch.labels.tolist() == [token for own in labels for token in own]
    shown = batch.label_rows
    assert [own[own >= 0].tolist() for own in shown] == labels
    assert (batch.label_index.diff() > 0).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 999))
def test_everything_expanded_is_plain_text(seed: int) -> None:
    row = random_row(seed, 1)
    batch = build([row])
    assert batch.groups == ()
    assert batch.chunk_mask is None
    text = [*text_of(row), *row.tail.tolist()][:-1]
    assert batch.token_ids[0, : len(text)].tolist() == text
    flat = batch.token_ids.flatten()
    inside = batch.label_index + 1 < len(text)
    assert torch.equal(flat[batch.label_index[inside] + 1], batch.labels[inside])


@settings(max_examples=40)
@given(seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3), p=st.sampled_from([0, 0.4, 1]))
def test_a_teacher_can_read_something_else(seeds: list[int], p: float) -> None:
    rows = [replace(random_row(seed, p), read=np.arange(3 + seed % 5)) for seed in seeds]
    batch = build(rows)
    assert batch.student_index is not None
    assert batch.teacher_index is not None
    read, place = read_by_teacher(batch), 0
    for i, row in enumerate(rows):
        assert row.read is not None
        text = [*row.read.tolist(), *row.tail[:4].tolist()]
        # What is compared is what predicts the first tokens of the tail, on either side.
        counted = np.flatnonzero(row.counted[:5])
        theirs = batch.teacher_index[place : place + len(counted)]
        start = int(theirs[0]) - (len(row.read) - 1)  # the first token of a tail counts
        assert theirs.tolist() == (start + len(row.read) - 1 + counted).tolist()
        assert start % 8 == 0
        assert read[start : start + len(text)] == text
        mine = batch.student_index[place : place + len(counted)] - i * batch.token_ids.shape[1]
        assert mine.tolist() == (row.positions - len(row.tail) + counted).tolist()
        place += len(counted)
    assert place == len(batch.student_index)


@settings(max_examples=40)
@given(
    seeds=st.lists(st.integers(0, 999), min_size=1, max_size=3),
    p=st.sampled_from([0, 0.4, 1]),
    every=st.integers(1, 4),
)
def test_the_teacher_is_asked_at_the_same_tokens(seeds: list[int], p: float, every: int) -> None:
    rows = [random_row(seed, p, every=every) for seed in seeds]
    batch = build(rows)
    assert batch.student_index is not None
    assert batch.teacher_index is not None
    read = read_by_teacher(batch)
    mine = batch.token_ids.flatten()[batch.student_index]
    theirs = torch.tensor(read)[batch.teacher_index]
    is_token = batch.chunk_index.flatten()[batch.student_index] < 0
    # The first place of a tail may be a chunk embedding, or follow a passage that was dropped.
    ends = []
    place = 0
    for row in rows:
        text = text_of(row)
        start = int(batch.teacher_index[place]) - (len(text) - 1)
        assert read[start : start + len(text) + 4] == [*text, *row.tail[:4].tolist()]
        expanded = sum(
            int(part.expanded.sum()) for part in row.parts if isinstance(part, ShownPassage)
        )
        ends.append(place)
        place += int(row.counted[:5].sum()) + -(-expanded // every)
    assert place == len(mine)
    compared = is_token.clone()
    compared[ends] = False
    assert compared.any()
    assert torch.equal(mine[compared], theirs[compared])
    if p == 1:
        assert torch.equal(mine, theirs)


def test_only_rows_with_a_teacher_have_its_text() -> None:
    batch = build([random_row(1, 0.4, taught=False)])
    assert batch.full_ids is batch.student_index is batch.teacher_index is None


def test_chunk_embeddings_are_those_of_single_passages(
    layered_model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table, through padding and groups, holds what ``chunk_embeddings`` makes."""
    monkeypatch.setattr(grouping, "_PASS", 0)
    rng = np.random.default_rng(0)
    texts = ["The harbour was dug in 1907.", "Rain fell on the mountain for three days."]
    encoded = layered_model.encode_passages(texts)
    shown = [
        ShownPassage(own.token_ids.astype(np.int64), np.zeros(own.n_tokens, bool), rung)
        for own in encoded
        for rung in RUNGS
    ]
    shown.append(passage(rng, 65, 16, 0))
    tail, first = np.array([5, 6]), np.array([1])
    counted = np.array([True, True])
    batch = build([Row([first, own], tail, counted) for own in shown])
    assert len(batch.groups) > 1
    with torch.inference_mode():
        inputs = batch_embeddings(layered_model, batch)
        for i, own in enumerate(shown[:-1]):
            expected = layered_model.chunk_embeddings([encoded[i // len(RUNGS)]], own.rung)
            found = inputs[i][batch.chunk_index[i] >= 0]
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-2)  # float16 vectors
        table = chunk_table(layered_model, batch, batch_vectors(layered_model, batch))
    assert int(batch.chunk_index.max()) < len(table)


def test_passages_with_one_key_are_encoded_once() -> None:
    rng = np.random.default_rng(0)
    ids, compressed = rng.integers(3, 400, size=20), np.zeros(20, dtype=bool)
    rows = [
        Row([np.array([1]), ShownPassage(ids, compressed, rung, key=7)], ids[:2], compressed[:2])
        for rung in (4, 4, 8)
    ]
    batch = build(rows)
    (group,) = batch.groups
    assert len(group.token_ids) == 1
    assert group.token_ids.shape[1] == 32  # whole groups of the largest rung
    assert int(group.used.sum()) == 20
    assert torch.equal(batch.chunk_index[0], batch.chunk_index[1])
    assert batch.rungs == (4, 8)


def test_a_batch_goes_to_another_process_without_shared_memory() -> None:
    """A step has dozens of tensors, and a process may open only so many files."""
    batch = build([random_row(seed, 0.4) for seed in range(4)])
    with patch("torch.multiprocessing.reductions.reduce_tensor") as shared:
        sent = ForkingPickler.dumps(batch)
    shared.assert_not_called()
    again = ForkingPickler.loads(sent)
    for name, value in vars(batch).items():
        other = getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(other, value), name
        elif name not in ("groups", "full_ids"):
            assert other == value, name
    assert again.full_ids is not None
    for ids, other_ids in zip(batch.full_ids or (), again.full_ids, strict=True):
        assert torch.equal(ids, other_ids)
    for mine, its in zip(batch.groups, again.groups, strict=True):
        assert torch.equal(mine.token_ids, its.token_ids)
        assert torch.equal(mine.used, its.used)


def test_logits_stand_at_the_labels(layered_model: RefragModel) -> None:
    rows = [random_row(seed, 1, taught=False) for seed in (1, 2)]
    batch = build(rows)
    with torch.inference_mode():
        whole = layered_model.decoder(input_ids=batch.token_ids).logits.flatten(0, 1)
        found = batch_logits(layered_model, batch)
    torch.testing.assert_close(found, whole[batch.label_index], atol=1e-5, rtol=1e-4)


def test_gradients_reach_encoder_projector_and_decoder(layered_folder: object) -> None:
    model = RefragModel.for_training(str(layered_folder))
    batch = build([random_row(seed, 0.2) for seed in range(8)])
    assert set(batch.rungs) == set(RUNGS)
    torch.nn.functional.cross_entropy(batch_logits(model, batch), batch.labels).backward()
    for part in (model.encoder, model.projector, model.decoder):
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name


@pytest.mark.parametrize(
    ("rungs", "expected"), [((8, 16, 32), 32), ((4,), 32), ((16, 32, 64), 64), ((8, 24), 48)]
)
def test_runs_fit_every_rung(rungs: tuple[int, ...], expected: int) -> None:
    assert run_tokens(rungs) == expected
