"""The stages as commands run them: start, resume, finish, hand over."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import set_seed

from refrag_components.corpus import Batch, QuestionSet, TokenisedCorpus
from refrag_components.evaluation.continuation.recovery import quick_recovery, quick_text_loss
from refrag_components.exceptions import TrainingError
from refrag_components.modeling import RefragModel
from refrag_components.modeling.weight_difference import Bits
from refrag_components.subclasses import concrete_classes
from refrag_components.training.continual import ContinualBatches, ContinualSettings
from refrag_components.training.objective import TrainingModel
from refrag_components.training.policy.settings import PolicySettings
from refrag_components.training.policy.trainer import train_policies
from refrag_components.training.questions import QuestionBatches, QuestionSettings, TwinSettings
from refrag_components.training.recipe import Recipe
from refrag_components.training.settings import StageSettings
from refrag_components.training.text_batches import Frame, TextSource, shares_of_rungs
from refrag_components.training.trainer import StageTrainer

__all__ = ["Run", "check_stages", "run_stage"]

_BITS: Bits = 8  # of the weights that a stage hands over to the next

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Run:
    """What all stages of a run share.

    Attributes:
        recipe: Settings of the whole run.
        train: Training text.
        validation: Held-out text.
        questions: Questions over passages, if there are any.
        folder: Of the whole run; each stage works in a folder of its name.
        teacher: Checkpoint whose decoder teaches the stages that are ``taught``; None for the
            plain twin that the run has trained.
        decoder_from: Checkpoint whose decoder, as it reads text, the continual stage starts with;
            None for the base decoder.
    """

    recipe: Recipe
    train: TokenisedCorpus
    validation: TokenisedCorpus
    questions: QuestionSet | None
    folder: Path
    teacher: str | Path | None = None
    decoder_from: str | Path | None = None


class _Stage(ABC):
    """A stage of training.

    Attributes:
        name: Of its table in a recipe and of its folder.
        follows: Stages whose model it starts from, the first one that the recipe has; if it has
            none of them, the stage starts from the base decoder.
    """

    name: ClassVar[str]
    follows: ClassVar[tuple[str, ...]] = ()

    def check(self, run: Run, before: Sequence[str]) -> None:  # noqa: B027 - not all need anything
        """Refuses what the stage could not begin with; ``before`` are stages that will have run."""

    def finished(self, run: Run) -> Path:
        """The folder of the finished model; it is there once the stage has ended."""
        return run.folder / self.name / "model"

    def run(self, run: Run, start_from: str | Path | None, compiled: bool) -> Path:
        """Runs the stage to its end and returns the folder of the finished model."""
        finished = self.finished(run)
        if finished.is_dir():
            _logger.info("%s is finished: %s", self.name, finished)
            return finished
        self.check(run, ())
        self.work(run, start_from or self._left_before(run), finished.parent, compiled)
        return finished

    def _left_before(self, run: Run) -> Path | None:
        before = next((name for name in self.follows if name in run.recipe.stages), None)
        if before is None:
            return None
        model = run.folder / before / "model"
        if not model.is_dir():
            msg = f"{self.name} starts from what {before} leaves in {model}; run {before} first"
            raise TrainingError(msg)
        return model

    @abstractmethod
    def work(self, run: Run, start: str | Path | None, folder: Path, compiled: bool) -> None:
        """Does the work in a folder; ``start`` is None for the base decoder."""


class _WeightStage(_Stage):
    """A stage that changes the model's weights.

    Attributes:
        settings: Its table of the recipe.
    """

    settings: StageSettings

    def check(self, run: Run, before: Sequence[str]) -> None:
        super().check(run, before)
        if not run.recipe.model.encoder_layers:
            msg = (
                "training needs an encoder made of the decoder's layers; set encoder_layers in the "
                "recipe's [model] (other encoders load and serve, but are not trained)"
            )
            raise TrainingError(msg)

    @abstractmethod
    def batches(self, run: Run, model: RefragModel, replicas: int) -> Dataset[tuple[Batch, ...]]:
        """What each step sees."""

    def begin(self, run: Run) -> RefragModel:
        """The model of a run's first stage."""
        return RefragModel.from_base(run.recipe.model)

    def freeze(self, model: RefragModel) -> None:
        """The table of token embeddings is not trained."""
        model.decoder.get_input_embeddings().weight.requires_grad_(False)

    def teacher(self, run: Run, model: RefragModel) -> Any:
        """The decoder that reads the full text."""
        return model.base_decoder()

    def measure(self, run: Run, model: RefragModel) -> dict[str, float]:
        """What the log says of the model on held-out text."""
        return quick_recovery(model, run.validation)

    def work(self, run: Run, start: str | Path | None, folder: Path, compiled: bool) -> None:
        """Trains with transformers' Trainer."""
        set_seed(run.recipe.seed)
        model = self.begin(run) if start is None else RefragModel.for_training(start)
        for corpus in (run.train, run.validation):
            corpus.check(model.tokenizer)
        self.freeze(model)
        # As many processes as the launcher says.
        replicas = int(os.environ.get("WORLD_SIZE", "1"))
        trainer = StageTrainer(
            TrainingModel(model, self.teacher(run, model)),
            self.batches(run, model, replicas),
            self.settings,
            folder,
            measure=lambda: self.measure(run, model),
            seed=run.recipe.seed,
            compiled=compiled,
        )
        trainer.run()
        if trainer.is_world_process_zero():
            trainer.state.save_to_json(str(folder / "log.json"))
            model.save_pretrained(folder / "model", bits=_BITS)
        trainer.accelerator.wait_for_everyone()


@dataclass(frozen=True)
class _Continual(_WeightStage):
    """Running text."""

    settings: ContinualSettings
    name: ClassVar[str] = "continual"

    def check(self, run: Run, before: Sequence[str]) -> None:
        super().check(run, before)
        shares_of_rungs(run.recipe.model.rungs, self.settings.rung_shares)

    def begin(self, run: Run) -> RefragModel:
        model = super().begin(run)
        if run.decoder_from is not None:
            start = RefragModel.text_decoder(run.decoder_from).state_dict()
            if _shapes(start) != _shapes(model.decoder.state_dict()):
                msg = (
                    f"the decoder of {run.decoder_from} is not of the shape of "
                    f"{run.recipe.model.decoder}; the recipe must name the base that it was "
                    "trained from"
                )
                raise TrainingError(msg)
            model.decoder.load_state_dict(start)
        return model

    def batches(self, run: Run, model: RefragModel, replicas: int) -> ContinualBatches:
        frame = Frame.of(model, self.settings.rung_shares)
        source = TextSource(run.train, self.settings.text, frame)
        return ContinualBatches(self.settings, source, run.recipe.seed, replicas)


@dataclass(frozen=True)
class _Questions(_WeightStage):
    """Questions over passages, together with running text."""

    settings: QuestionSettings
    name: ClassVar[str] = "questions"
    follows: ClassVar[tuple[str, ...]] = ("continual",)

    def check(self, run: Run, before: Sequence[str]) -> None:
        super().check(run, before)
        shares_of_rungs(run.recipe.model.rungs, self.settings.rung_shares)
        _questions_of(run, self.settings)
        if self.settings.taught and run.teacher is None and "twin" not in before:
            self._twin(run)

    def batches(self, run: Run, model: RefragModel, replicas: int) -> QuestionBatches:
        frame = Frame.of(model, self.settings.rung_shares)
        return _question_batches(run, self.settings, model, frame, replicas)

    def teacher(self, run: Run, model: RefragModel) -> Any:
        if not self.settings.taught:
            return super().teacher(run, model)
        return RefragModel.text_decoder(run.teacher or self._twin(run))

    def _twin(self, run: Run) -> Path:
        """The twin that the run has trained."""
        twin = run.folder / "twin" / "model"
        if not twin.is_dir():
            msg = (
                f"the twin teaches the questions, and there is none in {twin}; run twin first or "
                "pass --teacher"
            )
            raise TrainingError(msg)
        return twin


@dataclass(frozen=True)
class _Twin(_WeightStage):
    """The plain twin: the decoder alone, from its base, with everything as text."""

    settings: TwinSettings
    name: ClassVar[str] = "twin"

    def check(self, run: Run, before: Sequence[str]) -> None:
        super().check(run, before)
        _questions_of(run, self.settings)
        if self.settings.taught and run.teacher is None:
            raise TrainingError("the recipe's twin is taught, but nobody teaches; pass --teacher")

    def batches(self, run: Run, model: RefragModel, replicas: int) -> QuestionBatches:
        frame = Frame.of(model, [1.0] * len(model.config.rungs))
        return _question_batches(run, self.settings, model, frame, replicas)

    def teacher(self, run: Run, model: RefragModel) -> Any:
        if not self.settings.taught:
            return super().teacher(run, model)
        assert run.teacher is not None  # checked before anything was loaded
        return RefragModel.text_decoder(run.teacher)

    def freeze(self, model: RefragModel) -> None:
        super().freeze(model)
        model.encoder.requires_grad_(False)
        model.projector.requires_grad_(False)

    def measure(self, run: Run, model: RefragModel) -> dict[str, float]:
        return quick_text_loss(model, run.validation)


@dataclass(frozen=True)
class _Policy(_Stage):
    """The learned policies."""

    settings: PolicySettings
    name: ClassVar[str] = "policy"
    follows: ClassVar[tuple[str, ...]] = ("questions", "continual")

    def work(self, run: Run, start: str | Path | None, folder: Path, compiled: bool) -> None:
        if start is None:
            msg = "policies are trained for a checkpoint; run another stage first or --start-from"
            raise TrainingError(msg)
        if os.environ.get("RANK", "0") == "0":  # minutes on one GPU: not worth several
            train_policies(
                start,
                self.settings,
                train=run.train,
                validation=run.validation,
                questions=run.questions,
                folder=folder,
                seed=run.recipe.seed,
            )


_KINDS: Mapping[str, Callable[[Any], _Stage]] = {
    kind.name: kind for kind in concrete_classes(_Stage)
}


def check_stages(names: Sequence[str], run: Run) -> None:
    """Refuses stages that could not begin, before the first of them takes hours.

    Those that are finished need nothing any more.

    Args:
        names: Which stages, in the order in which they are to run.
        run: Recipe, data and folder.

    Raises:
        TrainingError: As ``run_stage``.
    """
    for i, name in enumerate(names):
        stage = _stage(name, run.recipe)
        if not stage.finished(run).is_dir():
            stage.check(run, names[:i])


def run_stage(
    name: str,
    run: Run,
    *,
    start_from: str | Path | None = None,
    compiled: bool | None = None,
) -> Path:
    """Runs a stage to its end, going on where a killed run stopped.

    Args:
        name: Which stage.
        run: Recipe, data and folder.
        start_from: Checkpoint to start from. The default is what the stage before left in the
            folder of the run, or the base decoder.
        compiled: Compile the layers; by default on CUDA.

    Returns:
        The folder of the finished model.

    Raises:
        TrainingError: If the recipe has no settings for the stage, its model cannot be trained,
            or the stage needs questions that are not there.
    """
    stage = _stage(name, run.recipe)
    if compiled is None:
        compiled = torch.cuda.is_available()
    return stage.run(run, start_from, compiled)


def _stage(name: str, recipe: Recipe) -> _Stage:
    settings = getattr(recipe, name)
    if settings is not None:
        return _KINDS[name](settings)
    msg = f"the recipe has no [{name}] table; add one to run this stage"
    raise TrainingError(msg)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def _questions_of(run: Run, settings: TwinSettings) -> QuestionSet:
    """What a stage trains on."""
    if run.questions is None:
        msg = (
            "this stage trains on questions; prepare some with `refrag train questions` and pass "
            "--questions"
        )
        raise TrainingError(msg)
    return run.questions.without(settings.held_out)


def _question_batches(
    run: Run, settings: TwinSettings, model: RefragModel, frame: Frame, replicas: int
) -> QuestionBatches:
    questions = _questions_of(run, settings)
    questions.corpus.check(model.tokenizer)
    source = TextSource(run.train, settings.text, frame)
    return QuestionBatches(settings, questions, source, run.recipe.seed, replicas)
