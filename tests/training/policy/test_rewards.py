"""Rewards against one forward pass a row over the layouts of query time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from refrag_components.corpus import (
    Batch,
    QuestionSet,
    TokenisedCorpus,
    WindowSpec,
    build_batch,
    cut_windows,
    lay_out,
)
from refrag_components.engines.decoder_inputs import embed_layouts
from refrag_components.engines.layout import Layout, PassageSegment, Segment, TextSegment
from refrag_components.modeling import RefragModel
from refrag_components.training.policy.rewards import encode_prompts, expand_rows, rewards
from refrag_components.vectors import ChunkVectors


def windows(run_folder: Path, rows: int = 3) -> Batch:
    return cut_windows(
        TokenisedCorpus.load(run_folder / "text"),
        np.arange(rows) * 7,
        WindowSpec(passages=2, passage_tokens=14, output_tokens=5),
        chunk_size=4,
        rungs=(4,),
        row_rungs=[4] * rows,
        separator=0,
        rng=np.random.default_rng(0),
    )


def conversations(run_folder: Path, rows: int = 5) -> Batch:
    rng = np.random.default_rng(1)
    questions = QuestionSet.load(run_folder / "questions")
    drawn = [questions.draw(5, 2048, rng) for _ in range(rows)]
    kind = {"kind": "compressed", "share": 0.0, "rung": 4, "rungs": (4,), "rng": rng}
    laid_out = [lay_out(row, questions, **kind) for row in drawn]  # type: ignore[arg-type]
    return build_batch(laid_out, chunk_size=4, rungs=(4,))


def slow_reward(model: RefragModel, batch: Batch, row: int, expanded: np.ndarray) -> float:
    """The row as a layout of one-chunk passages, through the decoder on its own."""
    prompts = encode_prompts(model, batch)
    segments: list[Segment] = []
    width = batch.token_ids.shape[1]
    own = batch.label_index // width == row
    labels = batch.labels[own]
    end = int(batch.label_index[own][-1] % width) + 1
    token_ids, used = batch.table_tokens
    place = 0
    for token, chunk in zip(batch.token_ids[row, :end], batch.chunk_index[row, :end], strict=True):
        if chunk < 0:
            segments.append(TextSegment(token.view(1).numpy()))
            continue
        vectors = ChunkVectors(
            prompts.vectors[row, place : place + 1].numpy(),
            token_ids[chunk][used[chunk]].numpy(),
            4,
            model.fingerprint,
        )
        segments.append(PassageSegment(vectors, expanded[place : place + 1]))
        place += 1
    inputs = embed_layouts(model, [Layout(tuple(segments))])
    with model.chunk_mask.using(inputs.chunk_mask):
        logits = model.decoder(inputs_embeds=inputs.inputs_embeds).logits[0, -len(labels) :]
    return float(-torch.nn.functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("make", [windows, conversations])
@pytest.mark.parametrize("positions", [1, 300, 10**6])
@torch.no_grad()
def test_rewards_are_those_of_single_layouts(
    make: Callable[[Path], Batch], positions: int, either_model: RefragModel, run_folder: Path
) -> None:
    batch = make(run_folder)
    prompts = encode_prompts(either_model, batch)
    generator = torch.Generator().manual_seed(0)
    shape = (len(prompts.present), 3, prompts.present.shape[1])
    expanded = (torch.rand(shape, generator=generator) < 0.4) & prompts.present.unsqueeze(1)
    expanded[:, 1] = False
    expanded[:, 2] = prompts.present
    found = rewards(either_model, prompts, expanded, positions=positions)
    for row in range(shape[0]):
        for sample in range(shape[1]):
            slow = slow_reward(either_model, batch, row, expanded[row, sample].numpy())
            assert found[row, sample].item() == pytest.approx(slow, abs=2e-4)


def test_rewards_do_not_depend_on_what_policies_read(
    layered_model: RefragModel, matched_model: RefragModel, run_folder: Path
) -> None:
    batch = windows(run_folder)
    plain, matched = (encode_prompts(model, batch) for model in (layered_model, matched_model))
    assert torch.equal(plain.embeddings, matched.embeddings)
    assert matched.vectors.shape == (*plain.vectors.shape[:2], matched_model.policy_width)


def test_nothing_expanded_is_the_batch_and_everything_expanded_the_full_text(
    tiny_model: RefragModel, run_folder: Path
) -> None:
    batch = windows(run_folder)
    prompts = encode_prompts(tiny_model, batch)
    nothing = torch.zeros(3, 1, 8, dtype=torch.bool)
    rows = expand_rows(prompts, nothing)
    positions = 1 + 8 + 4
    assert np.array_equal(rows.chunk_index, batch.chunk_index[:, :positions])
    is_token = batch.chunk_index[:, :positions] < 0
    token_ids = torch.from_numpy(np.stack(rows.token_ids))
    torch.testing.assert_close(token_ids[is_token], batch.token_ids[:, :positions][is_token])
    corpus = TokenisedCorpus.load(run_folder / "text")
    full = expand_rows(prompts, ~nothing)
    for row in range(3):
        text = corpus.tokens[row * 7 : row * 7 + 28 + 4].tolist()
        assert full.token_ids[row].tolist() == [tiny_model.first_token_id, *text]
        assert (full.chunk_index[row] == -1).all()


def test_prompts_without_chunks_are_rewarded_too(tiny_model: RefragModel, run_folder: Path) -> None:
    batch = windows(run_folder)
    bare = batch.chunk_index.clone()
    bare[2] = -1
    prompts = encode_prompts(tiny_model, replace(batch, chunk_index=bare))
    assert prompts.present.sum(dim=1).tolist() == [8, 8, 0]
    expanded = torch.zeros(3, 2, 8, dtype=torch.bool)
    found = rewards(tiny_model, prompts, expanded, positions=1000)
    assert torch.isfinite(found).all()
