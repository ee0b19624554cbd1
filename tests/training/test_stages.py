"""Training runs end to end on a tiny model, and survives being killed."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from refrag_components.corpus import QuestionSet, TokenisedCorpus
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.adapters import CHUNK_ADAPTER
from refrag_components.policies import PolicyInputs, make_policy
from refrag_components.training import progress
from refrag_components.training.adapters import attach_adapters
from refrag_components.training.objective import TrainingModel
from refrag_components.training.plans import PlannedBatches, reconstruction_plan
from refrag_components.training.policy.trainer import last_state
from refrag_components.training.recipe import STAGES, LoraSettings, Recipe, Stage
from refrag_components.training.stages import run_stage
from refrag_components.training.trainer import StageTrainer, last_complete_checkpoint
from tests.training.adapted import untrained_model

# Kills itself when it has done a step more than its first checkpoint holds.
KILLED = """
import os, signal
from pathlib import Path
from refrag_components.cli import main
from refrag_components.training.policy.trainer import PolicyTrainer, last_state
from refrag_components.training.trainer import StageTrainer, last_complete_checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

step, log = StageTrainer.training_step, PolicyTrainer._log

def training_step(self, *args, **kwargs):
    saved = last_complete_checkpoint(Path(self.args.output_dir))
    loss = step(self, *args, **kwargs)
    return loss if saved is None else die()

def log_step(self, entry):
    saved = last_state(self.folder)
    log(self, entry)
    return None if saved is None else die()

StageTrainer.training_step, PolicyTrainer._log = training_step, log_step
main()
"""


def command(run_folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "refrag_components.cli", "train", "run"),
        *("--recipe", str(run_folder / "recipe.toml"), "--text", str(run_folder / "text")),
        *("--validation", str(run_folder / "validation"), "--out", str(out)),
        *("--questions", str(run_folder / "questions"), *more),
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {
        f"{file.relative_to(folder)}:{n}": t for file in files for n, t in load_file(file).items()
    }


@pytest.fixture(scope="module")
def finished(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages run without interruption, in this process."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    recipe = Recipe.load(run_folder / "recipe.toml")
    for stage in STAGES:
        run_stage(
            stage,
            recipe,
            train=TokenisedCorpus.load(run_folder / "text"),
            validation=TokenisedCorpus.load(run_folder / "validation"),
            questions=QuestionSet.load(run_folder / "questions"),
            folder=out,
        )
    return out


def test_every_stage_leaves_a_model_that_answers(finished: Path) -> None:
    for stage in STAGES:
        model = RefragModel.from_pretrained(finished / stage / "model", device="cpu")
        (vectors,) = model.encode_passages(["Rain fell on the mountain."])
        assert np.isfinite(vectors.vectors).all()


def test_reconstruction_learns(finished: Path) -> None:
    history = json.loads((finished / "reconstruction" / "log.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert any("eval_k4_recovery_p0" in entry for entry in history)


def test_the_first_stage_moves_projector_encoder_and_decoder(
    finished: Path, run_folder: Path
) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    start = untrained_model(recipe)
    trained = RefragModel.from_pretrained(finished / "reconstruction" / "model", device="cpu")
    before, after = dict(start.named_parameters()), dict(trained.named_parameters())
    for part in ("projector.mix", "encoder.model.encoder.layer.0.attention.self.query.weight"):
        assert not torch.allclose(before[part], after[part], atol=1e-5), part
    layer = "decoder.model.layers.0.self_attn.q_proj"
    merged = after[f"{layer}.base_layer.weight"]
    assert not torch.allclose(before[f"{layer}.weight"], merged, atol=1e-6)
    assert after[f"{layer}.lora_B.chunk_adapter.weight"].any()  # zero before training


def test_the_policy_stage_adds_policies_and_changes_nothing_else(finished: Path) -> None:
    before, after = (weights_of(finished / stage / "model") for stage in ("finetuning", "policy"))
    added = {name for name in after if name.startswith("policy.safetensors:")}
    assert after.keys() - added == before.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    model = RefragModel.from_pretrained(finished / "policy" / "model", device="cpu")
    passages = model.encode_passages(["Rain fell on the mountain."])
    (question,) = model.encode_questions(["Where did rain fall?"])
    for name in ("learned", "learned-query"):
        scores = make_policy(name, model).scores(PolicyInputs(passages, question))
        assert np.isfinite(scores).all()


def test_a_policy_stage_needs_its_settings(run_folder: Path, tmp_path: Path) -> None:
    text = (run_folder / "recipe.toml").read_text().partition("[policy]")[0]
    (tmp_path / "recipe.toml").write_text(text)
    recipe = Recipe.load(tmp_path / "recipe.toml")
    corpus = TokenisedCorpus.load(run_folder / "text")
    with pytest.raises(TrainingError, match=r"no \[policy\] table"):
        run_stage("policy", recipe, train=corpus, validation=corpus, folder=tmp_path)


def test_a_stage_ends_when_its_time_is_over(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(progress, "monotonic", lambda: 0.1 * next(ticks))  # a step takes 0.1 s
    recipe = Recipe.load(run_folder / "recipe.toml")
    many = replace(recipe.reconstruction, steps=100_000, max_seconds=3.0, save_every=100_000)
    text = TokenisedCorpus.load(run_folder / "text")
    run_stage(
        "reconstruction",
        replace(recipe, reconstruction=many),
        train=text,
        validation=text,
        folder=tmp_path,
    )
    log = json.loads((tmp_path / "reconstruction" / "log.json").read_text())
    assert log["global_step"] in (30, 31)
    rates = [entry["learning_rate"] for entry in log["log_history"] if "learning_rate" in entry]
    assert rates[-1] < 0.02 * max(rates)
    RefragModel.from_pretrained(tmp_path / "reconstruction" / "model", device="cpu")


def test_what_training_cannot_do_is_refused(run_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    alone = replace(recipe, model=replace(recipe.model, contextual=False))
    text = TokenisedCorpus.load(run_folder / "text")
    with pytest.raises(TrainingError, match="contextual = true"):
        run_stage("reconstruction", alone, train=text, validation=text, folder=tmp_path)


def test_a_frozen_decoder_stays_as_it_was(run_folder: Path, tmp_path: Path) -> None:
    text = (run_folder / "recipe.toml").read_text()
    frozen = text.replace("encoder_lr = 1e-2", "encoder_lr = 1e-2\ndecoder_lr = 0")
    (tmp_path / "recipe.toml").write_text(frozen.replace("steps = 20", "steps = 3"))
    recipe = Recipe.load(tmp_path / "recipe.toml")
    out = run_stage(
        "reconstruction",
        recipe,
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        folder=tmp_path / "run",
    )
    model = RefragModel.from_pretrained(out, device="cpu")
    base = RefragModel.from_base(recipe.model)
    ids = torch.arange(24).reshape(2, 12)
    plain = base.decoder(input_ids=ids).logits
    assert torch.equal(model.decoder(input_ids=ids).logits, plain)
    with model.chunk_mask.using(torch.ones(2, 12, dtype=torch.bool)):
        assert not torch.allclose(model.decoder(input_ids=ids).logits, plain)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_resumes_and_ends_with_the_same_weights(
    stage: Stage, finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    call = command(run_folder, out, "--stage", stage)
    if stage != STAGES[0]:
        before = finished / STAGES[STAGES.index(stage) - 1] / "model"
        call += ["--start-from", str(before)]
    killed_call = [sys.executable, "-c", KILLED, *call[call.index("train") :]]
    process = subprocess.run(killed_call, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    find = last_state if stage == "policy" else last_complete_checkpoint
    assert find(out / stage) is not None
    assert not (out / stage / "model").exists()
    again = subprocess.run(call, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resuming {stage} from " in again.stderr
    killed = weights_of(out / stage / "model")
    whole = weights_of(finished / stage / "model")
    assert killed.keys() == whole.keys()
    for name in whole:
        assert torch.equal(killed[name], whole[name]), name  # no step lost, none taken twice


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global_st'), (15, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    found = last_complete_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-5"
    assert last_complete_checkpoint(tmp_path / "checkpoint-5") is None


def test_a_recipe_may_begin_with_the_second_stage(run_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    out = run_stage(
        "continual",
        replace(recipe, reconstruction=None, continual=replace(recipe.continual, steps=2)),
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        questions=QuestionSet.load(run_folder / "questions"),
        folder=tmp_path,
    )
    assert RefragModel.from_pretrained(out, device="cpu").loaded_adapters


def test_an_encoder_may_stay_as_it_is(run_folder: Path, tmp_path: Path) -> None:
    """Its vectors, and what was indexed with them, serve the checkpoint that comes next."""
    recipe = Recipe.load(run_folder / "recipe.toml")
    recipe = replace(
        recipe,
        lora=replace(recipe.lora, encoder_rank=0),
        reconstruction=None,
        continual=replace(recipe.continual, steps=2),
    )
    out = run_stage(
        "continual",
        recipe,
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        questions=QuestionSet.load(run_folder / "questions"),
        folder=tmp_path,
    )
    assert not (out / "encoder_adapter").exists()
    trained = RefragModel.from_pretrained(out, device="cpu")
    untrained = untrained_model(recipe)
    assert trained.fingerprint == untrained.fingerprint
    vectors = untrained.encode_passages(["Rain fell on the mountain."])
    assert not torch.allclose(
        trained.chunk_embeddings(vectors), untrained.chunk_embeddings(vectors), rtol=1e-2
    )


def test_the_alignment_of_the_context_fades(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    weights = []
    forward = TrainingModel.forward

    def watched(model: TrainingModel, **tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
        weights.append(model.context_alignment)
        return forward(model, **tensors)

    monkeypatch.setattr(TrainingModel, "forward", watched)
    run_stage(
        "continual",
        replace(
            recipe,
            reconstruction=None,
            continual=replace(recipe.continual, steps=4, context_alignment=2.0),
        ),
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        questions=QuestionSet.load(run_folder / "questions"),
        folder=tmp_path,
    )
    assert weights == pytest.approx([2.0, 1.5, 1.0, 0.5])


def test_the_log_tells_what_the_loss_is_made_of(finished: Path) -> None:
    history = json.loads((finished / "continual" / "log.json").read_text())["log_history"]
    entry = next(entry for entry in history if "loss" in entry)
    for part in ("cross_entropy_compressed", "divergence", "missed", "missed_in_context"):
        assert entry[part] > 0, part


def test_a_model_for_inference_gets_no_adapters(tiny_folder: Path) -> None:
    model = RefragModel.from_pretrained(tiny_folder, device="cpu")
    with pytest.raises(TrainingError, match="for_training"):
        attach_adapters(model, LoraSettings())


def test_the_adapter_matrices_that_start_at_zero_learn_faster(
    run_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    rate = {"decoder_lr": 2e-4, "chunk_adapter_lr": 1e-4}
    settings = replace(recipe.reconstruction, **rate, loraplus_lr_ratio=4.0)
    model = RefragModel.from_base(recipe.model)
    attach_adapters(model, recipe.lora)
    text = TokenisedCorpus.load(run_folder / "text")
    plan = reconstruction_plan(settings, 3)
    trainer = StageTrainer(
        TrainingModel(model),
        PlannedBatches(text, plan, model, settings.positions, 3),
        settings,
        tmp_path,
        validation=text,
    )
    rates = {
        id(parameter): group["lr"]
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.decoder.named_parameters():
        if "lora_" in name:
            expected = rate["chunk_adapter_lr" if CHUNK_ADAPTER in name else "decoder_lr"]
            expected *= 4 if "lora_B" in name else 1
            assert rates[id(parameter)] == pytest.approx(expected), name
    assert rates[id(model.projector.mix)] == settings.encoder_lr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml = = ", "cannot read the recipe"),
        ("[model]\ndecoder='a'\nencoder='b'\n", "no \\[continual\\] table"),
        (
            "[model]\ndecoder='a'\nencoder='b'\n[reconstruction]\nsteps=1\nstepz=2\n"
            "[continual]\nsteps=1\n",
            "unknown entries \\['stepz'\\]",
        ),
        (
            "[model]\ndecoder='a'\nencoder='b'\nchunk_size=9\n[reconstruction]\nsteps=1\n"
            "[continual]\nsteps=1\n",
            "chunk_size must be from 1",
        ),
        (
            "[model]\ndecoder='a'\nencoder='b'\n[reconstruction]\nsteps=1\nchunk_sizes=[4,32]\n"
            "[continual]\nsteps=1\nchunk_sizes=[32]\ncontext_tokens=[128]\n",
            "context_tokens = 128 is too short for chunk_sizes up to 32; set at least 256",
        ),
        (
            "[model]\ndecoder='a'\nencoder='b'\n[continual]\nsteps=1\ncontext_alignment=1.0\n"
            "next_token=0.0\n",
            "context_alignment alone",
        ),
        (
            "[model]\ndecoder='a'\nencoder='b'\n[continual]\nsteps=1\nruns=[0, 4]\n",
            "runs = \\[0, 4\\] are numbers of chunks",
        ),
    ],
)
def test_a_bad_recipe_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        Recipe.load(tmp_path / "recipe.toml")


@pytest.mark.timeout(300)
def test_two_processes_train_one_model(finished: Path, run_folder: Path, tmp_path: Path) -> None:
    """As on several GPUs: activations computed twice, and a clock that both must agree on."""
    recipe = (run_folder / "recipe.toml").read_text()
    table = "[finetuning]\ngradient_checkpointing = true\nmax_seconds = 100\n"
    recipe = recipe.replace("[finetuning]\n", table)
    (tmp_path / "recipe.toml").write_text(recipe)
    start = str(finished / "continual" / "model")
    more = ["--stage", "finetuning", "--start-from", start]
    python, *arguments = command(run_folder, tmp_path / "run", *more)
    arguments[arguments.index("--recipe") + 1] = str(tmp_path / "recipe.toml")
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [python, *launcher, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    log = json.loads((tmp_path / "run" / "finetuning" / "log.json").read_text())
    assert log["global_step"] == log["max_steps"]
    assert log["epoch"] == 1  # each took half of the batches, and none was seen twice
    assert done.stdout.count("finetuning: ") == 1
    RefragModel.from_pretrained(tmp_path / "run" / "finetuning" / "model", device="cpu")


def test_activations_that_are_computed_twice_give_the_same_weights(
    finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    out = run_stage(
        "reconstruction",
        replace(recipe, reconstruction=replace(recipe.reconstruction, gradient_checkpointing=True)),
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        folder=tmp_path,
    )
    mine, theirs = weights_of(out), weights_of(finished / "reconstruction" / "model")
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], atol=2e-3, rtol=2e-2)
