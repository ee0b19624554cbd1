"""Policies learn what the rewards say, and their training survives being killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel, policy_network
from refrag_components.modeling.policy_network import NETWORKS
from refrag_components.policies import PolicyInputs, make_policy
from refrag_components.policies.named.learned import observe
from refrag_components.training.policy import rewards as rewards_module
from refrag_components.training.policy import trainer as module
from refrag_components.training.policy.examples import PolicyBatches, observe_examples, token_rarity
from refrag_components.training.policy.rewards import EncodedPrompts, encode_prompts
from refrag_components.training.policy.settings import PolicySettings
from refrag_components.training.policy.trainer import PolicyTrainer, train_policies
from refrag_components.training.states import last_state
from tests.tiny import TEXT

SETTINGS = PolicySettings(
    steps=6,
    warm_up=3,
    examples=4,
    samples=4,
    updates=2,
    chunk_sizes=(4,),
    expanded=(0.25,),
    context_tokens=64,
    output_tokens=8,
    question_share=0.5,
    positions=2000,
    save_every=2,
    evaluate_every=3,
    evaluation_batches=2,
)

MakeTrainer = Callable[..., PolicyTrainer]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the same shape but small, for speed."""
    monkeypatch.setattr(policy_network, "_WIDTH", 48)


@pytest.fixture(params=["layered_folder", "matched_folder", "tiny_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A checkpoint of each kind; all have k = 4."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def make(folder: Path, run_folder: Path) -> MakeTrainer:
    """Makes a trainer on the tiny run's text; keywords change its settings."""
    checkpoint = folder

    def trainer(folder: Path, **changes: Any) -> PolicyTrainer:
        model = RefragModel.from_pretrained(checkpoint, device="cpu")
        settings = SETTINGS.model_copy(update=changes)
        questions = QuestionSet.load(run_folder / "questions")
        batches, validation = (
            PolicyBatches(TokenisedCorpus.load(run_folder / name), settings, model, seed, questions)
            for name, seed in (("text", 7), ("validation", 8))
        )
        return PolicyTrainer(model, batches, folder, validation=validation)

    return trainer


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_logs_both_phases_and_evaluates(make: MakeTrainer, tmp_path: Path) -> None:
    fresh = make(tmp_path).networks.state_dict()
    networks = make(tmp_path).train()
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert [entry["phase"] for entry in log] == ["warm-up"] * 3 + ["grpo"] * 3
    assert {entry["source"] for entry in log} == {"text", "questions"}
    for entry in (log[2], log[5]):
        for source, names in (
            ("text", ("recent", *NETWORKS)),
            ("questions", ("similarity", "late-interaction")),
        ):
            if f"{source} rare" in entry:
                assert all(np.isfinite(entry[f"{source} {name}"]) for name in names)
    moved = networks.state_dict()
    for name in NETWORKS:
        assert not torch.equal(moved[f"{name}.shortcut.weight"], fresh[f"{name}.shortcut.weight"])
        assert torch.equal(moved[f"{name}.rarity"], fresh[f"{name}.rarity"])


def test_a_new_network_predicts_no_gain(make: MakeTrainer, tmp_path: Path) -> None:
    make(tmp_path, steps=1, warm_up=1, question_share=0.0).train()
    (entry,) = log_of(tmp_path)
    for name in NETWORKS:
        assert entry[f"{name} loss"] == pytest.approx(1.0)


def test_the_model_that_rewards_stays_as_it_was(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_networks_of_the_checkpoint_are_trained_further(make: MakeTrainer, tmp_path: Path) -> None:
    first = make(tmp_path / "first", steps=2, go_on=True)  # it carries none: these are new
    first.model.policies = first.train()
    again = PolicyTrainer(first.model, first.batches, tmp_path, validation=first.validation)
    trained = first.networks.state_dict()
    for name, tensor in again.networks.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    moved = again.train().state_dict()
    weight = "learned-query.shortcut.weight"
    assert not torch.equal(moved[weight], first.model.policies.state_dict()[weight])


@pytest.mark.parametrize("killed_at", [3, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    killed_at: int, make: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path / "whole").train().state_dict()
    killed = make(tmp_path / "killed")
    save, log = killed._save, killed._log

    def die(entry: dict[str, Any]) -> None:
        log(entry)
        if entry["step"] == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "_log", die)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    monkeypatch.setattr(killed, "_save", save)
    state = last_state(tmp_path / "killed")
    assert state is not None
    assert state.name == f"state-{killed_at - 1}"
    (tmp_path / "killed" / ".state-cut-short").mkdir()  # what a kill while saving leaves behind
    resumed = make(tmp_path / "killed").train().state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert not list((tmp_path / "killed").glob(".state-*"))
    steps = [entry["step"] for entry in log_of(tmp_path / "killed")]
    assert steps == [1, 2, 3, 4, 5, 6]
    again = make(tmp_path / "killed").train().state_dict()  # nothing is left to do
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("steps", "warm_up", "asked", "start"),
    [(15, 15, 0.0, 10.0), (30, 0, 0.5, 0.0), (30, 0, 0.5, 10.0)],
)
def test_rewards_teach_which_chunks_help(
    steps: int,
    warm_up: int,
    asked: float,
    start: float,
    make: MakeTrainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rewards(_: RefragModel, prompts: EncodedPrompts, expanded: Tensor, **__: Any) -> Tensor:
        return (expanded * prompts.vectors[..., 0].unsqueeze(1)).sum(-1)

    monkeypatch.setattr(module, "rewards", rewards)
    monkeypatch.setattr(policy_network, "_START", start)  # these rewards care for no question
    trainer = make(
        tmp_path,
        steps=steps,
        warm_up=warm_up,
        question_share=asked,
        examples=16,
        samples=8,
        updates=4,
        save_every=100,
    )
    trainer.train()
    found = trainer.evaluate()
    prompts = encode_prompts(trainer.model, trainer.validation[0].batch)
    best = prompts.vectors[..., 0].topk(4, dim=1).values.sum(1).mean().item()
    for name in NETWORKS:
        gained = [value for key, value in found.items() if key.endswith(f" {name}")]
        assert min(gained) > 0.4 * best, (found, best)


def test_the_warm_up_learns_where_answers_stand(make: MakeTrainer, tmp_path: Path) -> None:
    trainer = make(tmp_path, steps=30, warm_up=30, question_share=1.0, examples=16, updates=4)
    examples = trainer.validation[0]
    assert examples.evidence is not None
    seen = observe_examples(trainer.model, examples, encode_prompts(trainer.model, examples.batch))

    def share() -> float:
        """Of the evidence that the first pick finds."""
        with torch.no_grad():
            logits = trainer.networks["learned-query"](seen)
        return float((logits.softmax(dim=1) * examples.evidence).sum(dim=1).mean())

    before = share()
    trainer.train()
    assert share() > 1.6 * before


def test_where_answers_stand_is_learnt_without_the_decoder(
    make: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rewards need chunk embeddings and what reads them, the dearest part of a step."""
    trainer = make(tmp_path, steps=2, warm_up=2, question_share=1.0, evaluate_every=10)
    monkeypatch.setattr(trainer, "evaluate", dict)
    monkeypatch.setattr(rewards_module, "chunk_table", None)
    monkeypatch.setattr(trainer.model.decoder, "forward", None)
    if trainer.model.matcher is not None:
        monkeypatch.setattr(trainer.model.encoder, "forward", None)
    trainer.train()
    assert [entry["step"] for entry in log_of(tmp_path)] == [1, 2]


def test_what_trains_sees_what_a_query_shows(make: MakeTrainer, tmp_path: Path) -> None:
    """Text and questions, laid out for training and for an answer, look the same to a network."""
    trainer = make(tmp_path)
    model = trainer.model
    for step in range(4):
        examples = trainer.batches[step]
        prompts = encode_prompts(model, examples.batch)
        seen = observe_examples(model, examples, prompts)
        for row in range(2):
            count = int(prompts.present[row].sum())
            numbers = seen.passages[row, :count]
            texts = [
                model.tokenizer.decode(seen.token_ids[row, :count][numbers == n][used])
                for n in numbers.unique()
                if (used := seen.used[row, :count][numbers == n]).any()
            ]
            (question,) = model.encode_questions([examples.questions[row]])
            inputs = PolicyInputs(model.encode_passages(texts), question)
            if [int((numbers == n).sum()) for n in numbers.unique()] != [
                passage.n_chunks for passage in inputs.passages
            ]:
                continue  # a window cuts words: their text has other tokens
            shown = observe(inputs)
            torch.testing.assert_close(shown.token_ids[0], seen.token_ids[row, :count])
            torch.testing.assert_close(shown.passages[0], numbers)
            if examples.passage_chunks is None:
                torch.testing.assert_close(
                    shown.vectors[0], seen.vectors[row, :count], atol=2e-2, rtol=2e-2
                )
                asked = seen.question_used[row]
                torch.testing.assert_close(
                    shown.question_vectors[0], seen.question_vectors[row][asked]
                )


def test_what_was_trained_goes_with_the_checkpoint(
    folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    train, validation = (TokenisedCorpus.load(run_folder / n) for n in ("text", "validation"))
    train_policies(
        folder,
        SETTINGS.model_copy(update={"steps": 1, "question_share": 1.0}),
        train=train,
        validation=validation,
        questions=QuestionSet.load(run_folder / "questions"),
        folder=tmp_path,
        seed=0,
    )
    model = RefragModel.from_pretrained(tmp_path / "model", device="cpu")
    assert set(model.policies) == set(NETWORKS)
    (question,) = model.encode_questions(["When was it dug?"])
    inputs = PolicyInputs(model.encode_passages(TEXT), question)
    assert np.isfinite(make_policy("learned-query", model).scores(inputs)).all()
    assert model.fingerprint == RefragModel.from_pretrained(folder, device="cpu").fingerprint


def test_rarity_is_surprisal_under_the_counts(run_folder: Path) -> None:
    corpus = TokenisedCorpus.load(run_folder / "text")
    rarity = token_rarity(corpus, 500)
    counts = np.bincount(corpus.tokens, minlength=500) + 1
    np.testing.assert_allclose(np.exp(-10 * rarity.numpy()), counts / counts.sum(), rtol=1e-4)


def test_questions_are_needed_where_the_recipe_asks_for_them(
    tiny_model: RefragModel, run_folder: Path
) -> None:
    corpus = TokenisedCorpus.load(run_folder / "text")
    with pytest.raises(TrainingError, match="--questions, or set question_share = 0"):
        PolicyBatches(corpus, SETTINGS, tiny_model, 0)
    long = SETTINGS.model_copy(update={"question_share": 0.0, "context_tokens": 10**6})
    with pytest.raises(TrainingError, match="a window needs"):
        PolicyBatches(corpus, long, tiny_model, 0)


def test_policies_see_the_chunks_of_the_checkpoint(
    layered_model: RefragModel, run_folder: Path
) -> None:
    corpus = TokenisedCorpus.load(run_folder / "text")
    settings = SETTINGS.model_copy(update={"chunk_sizes": (4, 8), "question_share": 0.0})
    with pytest.raises(TrainingError, match=r"chunks of 4 tokens; set chunk_sizes = \[4\]"):
        PolicyBatches(corpus, settings, layered_model, 0)
