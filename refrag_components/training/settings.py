"""What the settings of all stages have in common."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from refrag_components.checking import did_you_mean

__all__ = ["Settings", "Share", "StageSettings", "Steps", "unknown_entry"]

#: A number of steps or of anything else that there must be one of.
Steps = Annotated[int, Field(ge=1)]
#: A fraction of a whole.
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A table of a recipe: types are not converted, unknown entries are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class StageSettings(Settings):
    """What every stage has that changes the model's weights.

    Attributes:
        steps: Optimiser steps, at most.
        max_seconds: Seconds that the stage may take after loading and its first step, which
            compiles; the learning rate then falls with the clock. None for no limit.
        learning_rate: Of all weights, by Muon for matrices and AdamW for everything else.
        warm_up: Steps over which the learning rate rises to it.
        decay: Last share of the stage over which it falls to zero.
        gradient_checkpointing: Keep only each layer's input for the backward pass and compute the
            rest again: a third more time, far less memory.
        save_every: Steps between checkpoints of a running stage, which a killed run resumes from.
        evaluate_every: Steps between measurements on held-out text; None for none.
    """

    steps: Steps
    max_seconds: float | None = Field(default=None, gt=0)
    learning_rate: float = Field(gt=0)
    warm_up: int = Field(default=60, ge=0)
    decay: Share = 0.25
    gradient_checkpointing: bool = False
    save_every: Steps = 200
    evaluate_every: Steps | None = None


def unknown_entry(kind: type, values: Any, path: str = "") -> str | None:
    """Names the first unknown entry of a table, with the entry that may be meant.

    Args:
        kind: What the table becomes: a class of settings or a dataclass.
        values: The table.
        path: Names of the tables that it stands in, each with a dot after it.
    """
    if not isinstance(values, dict):
        return None
    if issubclass(kind, Settings):
        fields = {name: field.annotation for name, field in kind.model_fields.items()}
    else:
        assert dataclasses.is_dataclass(kind)
        fields = {field.name: None for field in dataclasses.fields(kind) if field.init}
    for name, value in values.items():
        if name not in fields:
            return f"unknown entry {path}{name}; {did_you_mean(name, fields)}"
        for inner in _tables_in(fields[name]):
            for table in value if isinstance(value, list | tuple) else [value]:
                if found := unknown_entry(inner, table, f"{path}{name}."):
                    return found
    return None


def _tables_in(annotation: Any) -> list[type]:
    """What becomes of a table in a type, such as ``Shape`` in ``tuple[Shape, ...]``."""
    if isinstance(annotation, type) and (
        issubclass(annotation, Settings) or dataclasses.is_dataclass(annotation)
    ):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _tables_in(argument)]
