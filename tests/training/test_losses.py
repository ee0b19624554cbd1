"""Losses by slices are the losses of all logits at once, with any decoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, PretrainedConfig

from refrag_components.corpus import (
    Batch,
    Row,
    ShownPassage,
    TokenisedCorpus,
    WindowSpec,
    batch_embeddings,
    build_batch,
    cut_windows,
    grouping,
)
from refrag_components.modeling import RefragModel
from refrag_components.training import losses
from refrag_components.training.objective import TrainingModel
from tests.tiny import layered_config, save_tiny_decoder, tiny_decoder_config

DECODERS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "own output matrix": (LlamaConfig, {"tie_word_embeddings": False}),
    "capped logits": (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 1.0}),
}


def layered(decoder: Path, encoder: Path) -> RefragModel:
    torch.manual_seed(1)
    model = RefragModel.from_base(layered_config(decoder, encoder, rungs=(4, 8)))
    model.decoder.get_input_embeddings().weight.requires_grad_(False)
    return model


@pytest.fixture(params=list(DECODERS))
def model(
    request: pytest.FixtureRequest, tiny_base: tuple[Path, Path], tmp_path: Path
) -> RefragModel:
    kind, others = DECODERS[request.param]
    decoder = save_tiny_decoder(tmp_path / "decoder", tiny_decoder_config(kind, **others))
    return layered(decoder, tiny_base[1])


def window_batch(run_folder: Path, expanded: float, *, taught: bool = True) -> Batch:
    """Windows of two passages of the run's text, the last chunk of each shorter."""
    spec = WindowSpec(
        passages=2,
        passage_tokens=38,
        output_tokens=6,
        expanded=expanded,
        run=8,
        recalled=1,
        taught=taught,
    )
    return cut_windows(
        TokenisedCorpus.load(run_folder / "text"),
        np.arange(4) * 7,
        spec,
        chunk_size=4,
        rungs=(4, 8),
        row_rungs=[4, 8, 4, 8],
        separator=0,
        rng=np.random.default_rng(0),
    )


def plain_loss(model: RefragModel, teacher: Any, batch: Batch) -> torch.Tensor:
    """As one would write it for a small vocabulary."""
    logits = model.decoder(inputs_embeds=batch_embeddings(model, batch)).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits[batch.label_index], batch.labels)
    if batch.full_ids is None:
        return loss
    with torch.no_grad():
        read = [teacher(input_ids=ids).logits.flatten(0, 1) for ids in batch.full_ids]
        full = torch.cat(read)[batch.teacher_index]
    return loss + torch.nn.functional.kl_div(
        logits[batch.student_index].log_softmax(-1),
        full.log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize("sliced", [7, 10_000])
def test_slices_give_the_loss_and_gradients_of_the_whole(
    taught: bool, sliced: int, model: RefragModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_SLICE", sliced)
    batch = window_batch(run_folder, 0.3, taught=taught)
    teacher = copy.deepcopy(model.decoder)
    with torch.no_grad():  # the teacher reads otherwise
        for parameter in model.decoder.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    expected = plain_loss(model, teacher, batch)
    wanted = torch.autograd.grad(expected, [*trained.values()], allow_unused=True)
    found = TrainingModel(model, teacher)(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(found, [*trained.values()], allow_unused=True)
    for name, mine, theirs in zip(trained, gradients, wanted, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


def test_how_texts_are_grouped_changes_nothing(
    model: RefragModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small groups of passages and of the teacher's texts, or one of each."""
    rng = np.random.default_rng(4)
    rows = []
    for length in (3, 9, 22, 40, 41):
        passages = [
            ShownPassage(rng.integers(3, 400, size=n), np.zeros(n, dtype=bool), rung)
            for n, rung in ((length, 4), (length // 2 + 1, 8), (60 - length, 4))
        ]
        tail = rng.integers(3, 400, size=4)
        rows.append(Row([tail[:1], *passages], tail, tail > 0, imitated=4, every=0))
    training = TrainingModel(model, copy.deepcopy(model.decoder))
    trained = [p for p in model.parameters() if p.requires_grad]
    found, counts = [], []
    for cost in (0, 10**9):
        monkeypatch.setattr(grouping, "_PASS", cost)
        batch = build_batch(rows, chunk_size=4, rungs=(4, 8))
        loss = training(batch)
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        found.append([loss.detach(), *(g for g in gradients if g is not None)])
        counts.append((len(batch.groups), len(batch.full_ids or ())))
    assert min(counts[0]) > 1
    assert counts[1] == (1, 1)
    for many, one in zip(*found, strict=True):
        torch.testing.assert_close(many, one, atol=1e-5, rtol=1e-3)


def test_text_that_is_read_as_the_teacher_reads_it_has_no_divergence(
    model: RefragModel, run_folder: Path
) -> None:
    """At p = 1, before any training; and nothing is asked of the encoder."""
    training = TrainingModel(model, copy.deepcopy(model.decoder))
    training(window_batch(run_folder, 1.0))
    training(window_batch(run_folder, 0.0))
    text, compressed = training.parts["divergence"]
    assert text == pytest.approx(0, abs=1e-5)
    assert compressed > 1e-3


def test_the_teacher_stays_as_it_was(model: RefragModel, run_folder: Path) -> None:
    teacher = model.base_decoder()
    training = TrainingModel(model, teacher)
    training(window_batch(run_folder, 0.3)).backward()
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not any("teacher" in name for name, _ in training.named_parameters())
    own = dict(model.decoder.named_parameters())
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, own[name]), name
