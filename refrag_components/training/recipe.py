"""Everything that decides a training run, in one TOML file."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import InstanceOf, ValidationError

from refrag_components.exceptions import TrainingError
from refrag_components.modeling.config import RefragConfig
from refrag_components.training.continual import ContinualSettings
from refrag_components.training.policy.settings import PolicySettings
from refrag_components.training.questions import QuestionSettings, TwinSettings
from refrag_components.training.settings import Settings, unknown_entry

__all__ = ["STAGES", "Recipe", "StageName"]

StageName = Literal["continual", "twin", "questions", "policy"]

#: In the order they run. The twin may teach the questions. The policies come last: their rewards
#: must come from the decoder that they will choose for.
STAGES: tuple[StageName, ...] = ("continual", "twin", "questions", "policy")


class Recipe(Settings):
    """Everything that decides a training run.

    Attributes:
        seed: Of everything that is drawn.
        model: What the checkpoint is made of.
        continual: First stage: running text.
        questions: Second stage: questions over passages.
        twin: The plain twin, which reads the same as text alone; it starts from the base decoder.
        policy: Last stage: the learned policies.
    """

    seed: int = 0
    model: InstanceOf[RefragConfig]
    continual: ContinualSettings | None = None
    questions: QuestionSettings | None = None
    twin: TwinSettings | None = None
    policy: PolicySettings | None = None

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Names of the stages that the recipe has settings for, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)

    def within(self, seconds: float) -> Recipe:
        """The same recipe with so many seconds for each stage, at most."""
        limited: dict[str, Any] = {
            name: getattr(self, name).model_copy(update={"max_seconds": seconds})
            for name in self.stages
        }
        return self.model_copy(update=limited)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Reads a recipe.

        Raises:
            TrainingError: If the file is missing, is not TOML, or has unknown, missing or wrong
                entries.
        """
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError) as error:
            msg = f"cannot read the recipe {path}: {error}"
            raise TrainingError(msg) from error
        if "model" not in values:
            raise TrainingError(f"the recipe {path} has no [model] table")
        try:
            if unknown := unknown_entry(cls, values):
                raise ValueError(unknown)
            model = _model(values.pop("model"))
            return cls.model_validate({**_with_tuples(values), "model": model})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            msg = f"the recipe {path} cannot be used: {place}: {first['msg']}"
            raise TrainingError(msg) from error
        except (RecursionError, TypeError, ValueError) as error:
            msg = f"the recipe {path} cannot be used: {error}"
            raise TrainingError(msg) from error


def _model(values: dict[str, Any]) -> RefragConfig:
    known = [field.name for field in fields(RefragConfig) if field.init]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"unknown entry model.{name}; {guess}")
    return RefragConfig(**values)


def _with_tuples(value: Any) -> Any:
    """Tuples for TOML's lists: settings cannot be changed."""
    if isinstance(value, dict):
        return {name: _with_tuples(own) for name, own in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
