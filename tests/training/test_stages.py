"""Training runs end to end on a tiny model, and survives being killed."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from refrag_components.corpus import QuestionSet, TokenisedCorpus, prepare_corpus
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.policies import PolicyInputs, make_policy
from refrag_components.training import progress
from refrag_components.training.recipe import STAGES, Recipe
from refrag_components.training.stages import Run, check_stages, run_stage
from refrag_components.training.states import last_state
from refrag_components.training.trainer import StageTrainer
from tests.adapters import attach_adapters
from tests.tiny import TEXT, save_tiny_decoder, tiny_decoder_config, tiny_decoder_tokenizer

# Kills itself when it has done a step more than its first checkpoint holds.
KILLED = """
import os, signal
from pathlib import Path
from refrag_components.cli import main
from refrag_components.training.policy.trainer import PolicyTrainer
from refrag_components.training.states import last_state
from refrag_components.training.trainer import StageTrainer

def die():
    os.kill(os.getpid(), signal.SIGKILL)

step, log = StageTrainer.training_step, PolicyTrainer._log

def training_step(self, *args, **kwargs):
    saved = last_state(Path(self.args.output_dir))
    loss = step(self, *args, **kwargs)
    return loss if saved is None else die()

def log_step(self, entry):
    saved = last_state(self.folder)
    log(self, entry)
    return None if saved is None else die()

StageTrainer.training_step, PolicyTrainer._log = training_step, log_step
main()
"""

BEFORE: dict[str, str] = {"questions": "continual", "policy": "questions"}


def command(run_folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "refrag_components.cli", "train", "run"),
        *("--recipe", str(run_folder / "recipe.toml"), "--text", str(run_folder / "text")),
        *("--validation", str(run_folder / "validation"), "--out", str(out)),
        *("--questions", str(run_folder / "questions"), *more),
    ]


def a_run(run_folder: Path, folder: Path, **changes: Any) -> Run:
    """The tiny run in another folder; keywords change tables of its recipe."""
    recipe = Recipe.load(run_folder / "recipe.toml")
    tables = {
        name: getattr(recipe, name).model_copy(update=change) for name, change in changes.items()
    }
    return Run(
        recipe=recipe.model_copy(update=tables),
        train=TokenisedCorpus.load(run_folder / "text"),
        validation=TokenisedCorpus.load(run_folder / "validation"),
        questions=QuestionSet.load(run_folder / "questions"),
        folder=folder,
    )


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return {
        f"{file.relative_to(folder)}:{n}": t for file in files for n, t in load_file(file).items()
    }


def history(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / "log.json").read_text())["log_history"]
    return found


@pytest.fixture(scope="module")
def finished(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages run without interruption, in this process."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run = a_run(run_folder, out)
    for stage in STAGES:
        run_stage(stage, run)
    return out


def test_every_stage_leaves_a_model_that_answers(finished: Path) -> None:
    for stage in STAGES:
        model = RefragModel.from_pretrained(finished / stage / "model", device="cpu")
        passages = model.encode_passages(["Rain fell on the mountain."])
        for rung in model.config.rungs:
            assert torch.isfinite(model.chunk_embeddings(passages, rung)).all()


def test_training_learns(run_folder: Path, tmp_path: Path) -> None:
    """A text of five sentences is soon known, and every kind of batch gets better."""
    run_stage("continual", a_run(run_folder, tmp_path, continual={"steps": 40, "short": ()}))
    losses = [entry for entry in history(tmp_path / "continual") if "loss" in entry]
    assert losses[-1]["loss"] < 0.85 * losses[0]["loss"]
    for kind in ("compressed", "runs", "text"):
        name = f"{kind} cross_entropy"
        assert losses[-1][name] < losses[0][name]
        assert losses[-1][f"{kind} divergence"] > 0


def test_the_decoder_trains_and_the_encoder_stays_without_dropout(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after what is measured between steps, which reads with everything in evaluation."""
    modes = []
    step = StageTrainer.training_step

    def watched(self: StageTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(self, *args, **kwargs)
        refrag = self._training.refrag
        modes.append((refrag.decoder.training, any(m.training for m in refrag.encoder.modules())))
        return loss

    monkeypatch.setattr(StageTrainer, "training_step", watched)
    run_stage("continual", a_run(run_folder, tmp_path, continual={"steps": 5, "evaluate_every": 2}))
    assert modes == [(True, False)] * 5


def test_all_weights_but_the_token_table_are_trained(finished: Path, run_folder: Path) -> None:
    recipe = Recipe.load(run_folder / "recipe.toml")
    torch.manual_seed(0)
    start = RefragModel.from_base(recipe.model)
    trained = RefragModel.from_pretrained(finished / "continual" / "model", device="cpu")
    after = dict(trained.named_parameters())
    for name, before in start.named_parameters():
        same = torch.allclose(before, after[name], atol=1e-5)
        assert same == ("embed_tokens" in name), name


def test_a_stage_starts_from_what_the_one_before_left(finished: Path, run_folder: Path) -> None:
    """Nearer to it than to the base, which the twin starts from."""

    def weight(model: RefragModel) -> torch.Tensor:
        found: torch.Tensor = model.decoder.model.layers[0].self_attn.q_proj.weight
        return found

    base = weight(RefragModel.from_base(Recipe.load(run_folder / "recipe.toml").model))
    continual, questions, twin = (
        weight(RefragModel.from_pretrained(finished / stage / "model", device="cpu"))
        for stage in ("continual", "questions", "twin")
    )
    assert (questions - continual).norm() < (questions - base).norm()
    assert (twin - base).norm() < (twin - continual).norm()


def test_the_twin_learns_from_text_alone(finished: Path, run_folder: Path) -> None:
    model = RefragModel.from_pretrained(finished / "twin" / "model", device="cpu")
    base = RefragModel.from_base(Recipe.load(run_folder / "recipe.toml").model)
    for part in ("encoder", "projector"):
        for name, weight in getattr(model, part).named_parameters():
            assert not weight.isnan().any(), name
    layer = model.decoder.model.layers[0].mlp.up_proj.weight
    assert not torch.allclose(layer, base.decoder.model.layers[0].mlp.up_proj.weight, atol=1e-5)
    seen = {key for entry in history(finished / "twin") for key in entry}
    assert {"asked text cross_entropy", "text cross_entropy", "eval_full"} <= seen
    assert not any("compressed" in key or "k4" in key for key in seen)


def test_the_twin_teaches_the_questions(finished: Path, run_folder: Path, tmp_path: Path) -> None:
    run = a_run(run_folder, tmp_path, questions={"taught": True, "asked": (1, 3)})
    shutil.copytree(finished / "continual", tmp_path / "continual")
    with pytest.raises(TrainingError, match="run twin first"):
        run_stage("questions", run)
    shutil.copytree(finished / "twin", tmp_path / "twin")
    run_stage("questions", run)
    seen = {key for entry in history(tmp_path / "questions") for key in entry}
    assert any(key.startswith("asked") and key.endswith("divergence") for key in seen)
    untaught = {key for entry in history(finished / "questions") for key in entry}
    assert not any(key.startswith("asked") and key.endswith("divergence") for key in untaught)


def test_a_checkpoint_teaches_twin_and_questions(
    finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    nobody = a_run(run_folder, tmp_path, twin={"taught": True}, questions={"taught": True})
    with pytest.raises(TrainingError, match="pass --teacher"):
        run_stage("twin", nobody)
    run = replace(nobody, teacher=finished / "twin" / "model")
    shutil.copytree(finished / "continual", tmp_path / "continual")
    for stage in ("twin", "questions"):
        run_stage(stage, run)
        seen = {key for entry in history(tmp_path / stage) for key in entry}
        assert any(key.startswith("asked") and key.endswith("divergence") for key in seen), stage


def served_only(run: Run, folder: Path) -> RefragModel:
    """A checkpoint of an earlier design, whose adapters change what the decoder reads."""
    config = replace(run.recipe.model, encoder_layers=0, rungs=(4,))
    model = RefragModel.from_base(config)
    attach_adapters(model)
    for name, parameter in model.decoder.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return RefragModel.from_pretrained(folder, device="cpu")


def test_a_run_begins_with_the_decoder_of_a_checkpoint_that_only_serves(
    run_folder: Path, tmp_path: Path
) -> None:
    """With the adapter for all positions in it; encoder and projector are untrained."""
    nothing = {"steps": 1, "learning_rate": 1e-12, "warm_up": 0, "short": ()}
    run = a_run(run_folder, tmp_path / "run", continual=nothing)
    served = served_only(run, tmp_path / "served")
    begun = RefragModel.from_pretrained(
        run_stage("continual", replace(run, decoder_from=tmp_path / "served")), device="cpu"
    )
    ids = torch.arange(1, 30)[None]
    with torch.inference_mode():
        read, expected, base = (
            decoder(input_ids=ids).logits
            for decoder in (begun.decoder, served.decoder, begun.base_decoder())
        )
    assert (read - expected).norm() < 0.05 * (expected - base).norm()  # 8 bits per value


def test_a_checkpoint_that_only_serves_teaches(
    finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    run = a_run(run_folder, tmp_path / "run", questions={"taught": True})
    served_only(run, tmp_path / "served")
    model = finished / "continual" / "model"
    run_stage("questions", replace(run, teacher=tmp_path / "served"), start_from=model)
    seen = {key for entry in history(tmp_path / "run" / "questions") for key in entry}
    assert any(key.startswith("asked") and key.endswith("divergence") for key in seen)


def test_a_decoder_of_another_shape_is_refused(run_folder: Path, tmp_path: Path) -> None:
    run = a_run(run_folder, tmp_path)
    deeper = save_tiny_decoder(tmp_path / "deeper", tiny_decoder_config(num_hidden_layers=3))
    model = RefragModel.from_base(replace(run.recipe.model, decoder=str(deeper)))
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(TrainingError, match="not of the shape"):
        run_stage("continual", replace(run, decoder_from=tmp_path / "other"))
    assert not (tmp_path / "continual" / "model").exists()


def test_the_log_tells_what_the_loss_is_made_of(finished: Path) -> None:
    seen = {key for entry in history(finished / "continual") for key in entry}
    for kind in ("compressed", "runs", "text"):
        assert {f"{kind} cross_entropy", f"{kind} divergence"} <= seen
    for rung in (4, 8, 16):
        assert {f"eval_k{rung}_recovery", f"eval_k{rung}_recall_recovery"} <= seen
    asked = {key for entry in history(finished / "questions") for key in entry}
    assert sum(key.startswith("asked ") for key in asked) > 2


def test_the_policy_stage_adds_policies_and_changes_nothing_else(finished: Path) -> None:
    before, after = (weights_of(finished / stage / "model") for stage in ("questions", "policy"))
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


def test_a_stage_ends_when_its_time_is_over(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(progress, "monotonic", lambda: 0.1 * next(ticks))  # a step takes 0.1 s
    many = {"steps": 100_000, "max_seconds": 3.0, "save_every": 100_000, "evaluate_every": None}
    run_stage("continual", a_run(run_folder, tmp_path, continual=many))
    log = json.loads((tmp_path / "continual" / "log.json").read_text())
    assert log["global_step"] in (30, 31)
    rates = [entry["learning_rate"] for entry in log["log_history"] if "learning_rate" in entry]
    assert rates[0] == max(rates)
    assert rates[-1] < 0.3 * max(rates)
    RefragModel.from_pretrained(tmp_path / "continual" / "model", device="cpu")


def test_what_training_cannot_do_is_refused(
    run_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = a_run(run_folder, tmp_path)
    other = RefragConfig(decoder=run.recipe.model.decoder, encoder=run.recipe.model.encoder)
    of_another = Run(
        recipe=run.recipe.model_copy(update={"model": other}),
        train=run.train,
        validation=run.validation,
        questions=None,
        folder=tmp_path,
    )
    with pytest.raises(TrainingError, match="set encoder_layers in the recipe's"):
        run_stage("continual", of_another)
    with pytest.raises(ValueError, match="load and serve, but are not trained"):
        run_stage("questions", run, start_from=tiny_folder)
    bare = Run(run.recipe, run.train, run.validation, None, tmp_path)
    with pytest.raises(TrainingError, match="prepare some with `refrag train questions`"):
        run_stage("twin", bare)
    alone = run.recipe.model_copy(update={"continual": None, "questions": None})
    with pytest.raises(TrainingError, match=r"no \[continual\] table; add one"):
        run_stage("continual", Run(alone, run.train, run.validation, None, tmp_path))
    with pytest.raises(TrainingError, match="policies are trained for a checkpoint"):
        run_stage("policy", Run(alone, run.train, run.validation, None, tmp_path))
    with pytest.raises(TrainingError, match="run continual first"):
        run_stage("questions", run)
    held_out = a_run(run_folder, tmp_path, twin={"held_out": ("question",)})
    with pytest.raises(TrainingError, match=r"did you mean questions\?"):
        run_stage("twin", held_out)
    wrong = a_run(run_folder, tmp_path, continual={"rung_shares": (1.0,)})
    with pytest.raises(TrainingError, match=r"one share for each of the rungs \(4, 8, 16\)"):
        run_stage("continual", wrong)
    tokenizer = tiny_decoder_tokenizer()
    tokenizer.add_tokens(["harbour"])
    prepare_corpus(TEXT, tokenizer, tmp_path / "other")
    text = TokenisedCorpus.load(tmp_path / "other")
    with pytest.raises(TrainingError, match="another decoder's tokenizer"):
        run_stage("continual", Run(run.recipe, text, run.validation, None, tmp_path))


def test_what_a_later_stage_lacks_is_told_before_the_first(
    run_folder: Path, finished: Path, tmp_path: Path
) -> None:
    run = a_run(run_folder, tmp_path)
    check_stages(STAGES, run)
    for problem, message in (
        ({"questions": {"held_out": ("question",)}}, "did you mean questions"),
        ({"questions": {"rung_shares": (1.0,)}}, "one share for each of the rungs"),
        ({"twin": {"taught": True}}, "nobody teaches"),
    ):
        with pytest.raises(TrainingError, match=message):
            check_stages(STAGES, a_run(run_folder, tmp_path, **problem))
    taught = a_run(run_folder, tmp_path, questions={"taught": True})
    check_stages(STAGES, taught)  # the twin will have been trained
    with pytest.raises(TrainingError, match="run twin first"):
        check_stages(["questions"], taught)
    bare = Run(run.recipe, run.train, run.validation, None, tmp_path)
    with pytest.raises(TrainingError, match="prepare some"):
        check_stages(STAGES, bare)
    check_stages(STAGES, replace(bare, folder=finished))
    assert run_stage("twin", replace(bare, folder=finished)) == finished / "twin" / "model"


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_resumes_and_ends_with_the_same_weights(
    stage: str, finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    call = command(run_folder, out, "--stage", stage)
    if stage in BEFORE:
        call += ["--start-from", str(finished / BEFORE[stage] / "model")]
    killed_call = [sys.executable, "-c", KILLED, *call[call.index("train") :]]
    process = subprocess.run(killed_call, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert last_state(out / stage) is not None
    assert not (out / stage / "model").exists()
    again = subprocess.run(call, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resuming {stage} from " in again.stderr
    killed = weights_of(out / stage / "model")
    whole = weights_of(finished / stage / "model")
    assert killed.keys() == whole.keys()
    for name in whole:
        assert torch.equal(killed[name], whole[name]), name  # no step lost, none taken twice


def test_what_a_killed_run_drew_is_drawn_again(
    run_folder: Path, tiny_base: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = shutil.copytree(tiny_base[0], tmp_path / "decoder")
    config = json.loads((decoder / "config.json").read_text())
    drops = config | {"attention_dropout": 0.5}
    (decoder / "config.json").write_text(json.dumps(drops))
    recipe = a_run(run_folder, tmp_path).recipe
    model = replace(recipe.model, decoder=str(decoder))
    recipe = recipe.model_copy(update={"model": model})
    whole, killed = (
        replace(a_run(run_folder, tmp_path / name), recipe=recipe) for name in ("whole", "killed")
    )
    run_stage("twin", whole)
    step = StageTrainer.training_step

    def die(self: StageTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StageTrainer, "training_step", die)
        run_stage("twin", killed)
    run_stage("twin", killed)
    theirs, mine = (weights_of(run.folder / "twin" / "model") for run in (whole, killed))
    for name in theirs:
        assert torch.equal(mine[name], theirs[name]), name


def test_two_processes_train_one_model(finished: Path, run_folder: Path, tmp_path: Path) -> None:
    """As on several GPUs: activations computed twice, and a clock that both must agree on."""
    recipe = (run_folder / "recipe.toml").read_text()
    table = "[questions]\ngradient_checkpointing = true\nmax_seconds = 3600\n"
    recipe = recipe.replace("[questions]\n", table)
    (tmp_path / "recipe.toml").write_text(recipe)
    start = str(finished / "continual" / "model")
    more = ["--stage", "questions", "--start-from", start]
    python, *arguments = command(run_folder, tmp_path / "run", *more)
    arguments[arguments.index("--recipe") + 1] = str(tmp_path / "recipe.toml")
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [python, *launcher, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    log = json.loads((tmp_path / "run" / "questions" / "log.json").read_text())
    assert log["global_step"] == log["max_steps"]
    assert log["epoch"] == 1  # each took half of the batches, and none was seen twice
    assert done.stdout.count("questions: ") == 1
    RefragModel.from_pretrained(tmp_path / "run" / "questions" / "model", device="cpu")


def test_activations_that_are_computed_twice_give_the_same_weights(
    finished: Path, run_folder: Path, tmp_path: Path
) -> None:
    run = a_run(run_folder, tmp_path, continual={"gradient_checkpointing": True})
    mine = weights_of(run_stage("continual", run))
    theirs = weights_of(finished / "continual" / "model")
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name], atol=2e-3, rtol=2e-2)
