"""Everything that decides a training run, in one TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from refrag_components.checking import checked
from refrag_components.exceptions import TrainingError
from refrag_components.modeling.config import RefragConfig
from refrag_components.training.continual import ContinualSettings
from refrag_components.training.policy.settings import PolicySettings
from refrag_components.training.questions import QuestionSettings, TwinSettings
from refrag_components.training.settings import Settings, unknown_entry

__all__ = ["STAGES", "Recipe"]


class Recipe(Settings):
    """Everything that decides a training run: ``seed``, ``model``, and a table for each stage.

    The stages run in the order of their fields. The twin may teach the questions. The policies come
    last: their rewards must come from the decoder that they will choose for.

    Attributes:
        seed: Of everything that is drawn.
        model: What the checkpoint is made of.
        continual: First stage: running text.
        twin: The plain twin, which reads the same as text alone; it starts from the base decoder.
        questions: Questions over passages, after running text.
        policy: Last stage: the learned policies.
    """

    seed: int = 0
    model: RefragConfig
    continual: ContinualSettings | None = None
    twin: TwinSettings | None = None
    questions: QuestionSettings | None = None
    policy: PolicySettings | None = None

    @property
    def stages(self) -> tuple[str, ...]:
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
            return checked(cls, values)
        except (RecursionError, ValueError) as error:
            msg = f"the recipe {path} cannot be used: {error}"
            raise TrainingError(msg) from error


#: Names of all stages, in the order they run: the tables that a recipe may leave out.
STAGES: tuple[str, ...] = tuple(
    name for name, field in Recipe.model_fields.items() if field.default is None
)
