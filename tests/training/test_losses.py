"""Losses by slices are the losses of all logits at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, PretrainedConfig

from refrag_components.corpus import (
    IGNORED,
    Batch,
    ConversationSpec,
    QuestionSet,
    batch_logits,
    lay_out_conversations,
)
from refrag_components.corpus import encoder_input as pieces
from refrag_components.modeling import RefragModel
from refrag_components.training import losses
from refrag_components.training.objective import TrainingModel
from tests.tiny import save_tiny_decoder, tiny_decoder_config
from tests.training.adapted import adapted_model, window_batch

DECODERS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "own output matrix": (LlamaConfig, {"tie_word_embeddings": False}),
    "capped logits": (Gemma2Config, {"head_dim": 8, "final_logit_softcapping": 1.0}),
}


@pytest.fixture(params=list(DECODERS))
def model(
    request: pytest.FixtureRequest, tiny_base: tuple[Path, Path], tmp_path: Path
) -> RefragModel:
    kind, others = DECODERS[request.param]
    decoder = save_tiny_decoder(tmp_path / "decoder", tiny_decoder_config(kind, **others))
    return adapted_model(decoder, tiny_base[1])


def question_batch(model: RefragModel, run_folder: Path) -> Batch:
    questions = QuestionSet.load(run_folder / "questions")
    spec = ConversationSpec(chunk_size=4, expanded=0.3)
    rng = np.random.default_rng(0)
    rows = questions.draw(5, spec, rng)
    return lay_out_conversations(
        rows, spec, questions, encoder=model.encoder, rng=rng, with_full_text=True
    )


def plain_loss(model: RefragModel, batch: Batch, weight: float) -> torch.Tensor:
    """As one would write it for a small vocabulary."""
    logits = batch_logits(model, batch, everywhere=batch.context_labels is not None)
    labels = batch.labels
    if batch.context_labels is not None:
        labels = torch.cat([batch.context_labels, labels], dim=1)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )
    assert batch.full_ids is not None
    output = logits[:, -batch.labels.shape[1] :]
    with torch.no_grad():
        full = model.decoder(input_ids=batch.full_ids).logits
        if batch.full_index is None:
            teacher = full[:, -batch.labels.shape[1] :].flatten(0, 1)
        else:
            teacher = full.flatten(0, 1)[batch.full_index]
    student = output[batch.labels != IGNORED]
    if batch.expanded_index is not None and batch.expanded_full_index is not None:
        whole = batch_logits(model, batch, everywhere=True)
        student = torch.cat([student, whole.flatten(0, 1)[batch.expanded_index.flatten()]])
        in_full = full.flatten(0, 1)[batch.expanded_full_index.flatten()]
        teacher = torch.cat([teacher, in_full])
    divergence = torch.nn.functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return loss + weight * divergence


@pytest.mark.parametrize("kind", ["outputs", "everywhere", "questions"])
@pytest.mark.parametrize("sliced", [7, 10_000])
def test_slices_give_the_loss_and_gradients_of_the_whole(
    kind: str, sliced: int, model: RefragModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_SLICE", sliced)
    if kind == "questions":
        batch = question_batch(model, run_folder)
    else:
        batch = window_batch(model, run_folder, everywhere=kind == "everywhere")
    trained = {n: p for n, p in model.named_parameters() if "lora_" in n or "projector" in n}
    expected = plain_loss(model, batch, 0.7)
    wanted = torch.autograd.grad(expected, [*trained.values()], allow_unused=True)
    found = TrainingModel(model, 0.7, fold_at_once=sliced == 7)(**vars(batch))["loss"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(found, [*trained.values()], allow_unused=True)
    for name, mine, theirs in zip(trained, gradients, wanted, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("expanded", [0.3, 1.0])
def test_the_base_decoder_can_be_the_teacher(
    expanded: float, model: RefragModel, run_folder: Path
) -> None:
    batch = window_batch(model, run_folder, everywhere=False, expanded=expanded)
    training = TrainingModel(model, 1.0, next_token=0.0, base_teacher=True)
    found = training(**vars(batch))["loss"]
    found.backward()
    training.forget_batch()
    with torch.no_grad():
        student = batch_logits(model, batch, everywhere=True).flatten(0, 1)
        with model.decoder.disable_adapter():
            teacher = model.decoder(input_ids=batch.full_ids).logits.flatten(0, 1)
    assert batch.expanded_index is not None
    assert batch.expanded_full_index is not None
    places = []
    for ids, own in (
        (batch.token_ids, batch.expanded_index),
        (batch.full_ids, batch.expanded_full_index),
    ):
        assert ids is not None
        last = torch.arange(ids.numel()).view_as(ids)[:, -batch.labels.shape[1] :]
        places.append(torch.cat([last.flatten(), own.flatten()]))
    expected = torch.nn.functional.kl_div(
        student[places[0]].log_softmax(-1),
        teacher[places[1]].log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-4)
    assert expected > 0.001
    for name, parameter in model.decoder.named_parameters():
        if "lora_B.default" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("next_token", [0.0, 1.0])
@pytest.mark.parametrize("expanded", [0.0, 0.3, 1.0])
def test_every_batch_reaches_all_that_trains(
    expanded: float, next_token: float, model: RefragModel, run_folder: Path
) -> None:
    """Processes that train together wait for each gradient, encoded chunks or none."""
    batch = window_batch(model, run_folder, everywhere=True, expanded=expanded)
    if expanded == 1:
        batch = replace(batch, full_ids=None, expanded_index=None, expanded_full_index=None)
    training = TrainingModel(model, 1.0, next_token=next_token)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "projector" in name)
    training(**vars(batch))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    encoded = sum(float(p.grad.abs().sum()) for p in training.encoding_parameters())
    assert (encoded > 0) == (expanded < 1)


def test_windows_of_similar_length_are_encoded_together_to_the_same_vectors(
    model: RefragModel, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_WORTH_GROUPING", 2.0)  # the tiny passages are of one length
    questions = QuestionSet.load(run_folder / "questions")
    spec = ConversationSpec(chunk_size=4, expanded=0.0)
    rng = np.random.default_rng(0)
    rows = questions.draw(40, spec, rng)
    batch = lay_out_conversations(rows, spec, questions, encoder=model.encoder, rng=rng)
    assert len(batch.groups) > 1
    whole = replace(batch, groups=((0, *batch.pieces.shape),))
    torch.testing.assert_close(
        batch_logits(model, batch), batch_logits(model, whole), atol=1e-4, rtol=1e-4
    )
