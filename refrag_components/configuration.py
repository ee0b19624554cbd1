"""What a REFRAG checkpoint is made of, as it stands in its ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["CONFIG_NAME", "RefragConfig"]

CONFIG_NAME = "config.json"


@dataclass(frozen=True, kw_only=True)
class RefragConfig:
    """Configuration of a ``RefragModel``.

    Attributes:
        decoder: Base decoder: Hugging Face hub id or folder. Ignored where the checkpoint carries
            its own ``decoder/`` folder.
        encoder: Base encoder, likewise.
        chunk_size: Tokens a chunk (k) that the checkpoint works with by default.
        max_chunk_size: Largest k it can be used with; at least ``chunk_size``.
        pooling: How token states become a chunk vector. "cls" needs ``contextual=False``.
        contextual: True encodes a whole passage in one pass and pools each chunk's span, so that a
            chunk vector knows its surroundings; False encodes each chunk alone, as the paper does.
        token_mix: True adds a learned mix of the chunk's own token embeddings to the projected
            chunk vector (the token ids are stored anyway).
        model_type: Always "refrag".
        version: Version of this file format.
    """

    decoder: str
    encoder: str
    chunk_size: int = 8
    max_chunk_size: int = 8
    pooling: Literal["mean", "cls"] = "mean"
    contextual: bool = True
    token_mix: bool = True
    model_type: Literal["refrag"] = "refrag"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        """Checks that the values go together."""
        if not 1 <= self.chunk_size <= self.max_chunk_size:
            msg = (
                f"chunk_size must lie in 1..max_chunk_size={self.max_chunk_size}, "
                f"got {self.chunk_size}"
            )
            raise ValueError(msg)
        if self.pooling not in ("mean", "cls"):
            msg = f"pooling must be 'mean' or 'cls', got {self.pooling!r}"
            raise ValueError(msg)
        if self.pooling == "cls" and self.contextual:
            msg = "pooling='cls' has one vector a sequence; set contextual=False with it"
            raise ValueError(msg)

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_folder(cls, folder: str | Path) -> RefragConfig:
        """Reads ``config.json`` of a checkpoint folder.

        Raises:
            ValueError: If the file is no REFRAG configuration.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            msg = f"{path} is not valid JSON: {error}"
            raise ValueError(msg) from error
        if values.get("model_type") != "refrag":
            msg = f"{path} describes a {values.get('model_type')!r} model, not a REFRAG checkpoint"
            raise ValueError(msg)
        if values.get("version") != 1:
            msg = f"{path} has version {values.get('version')!r}; this release reads version 1"
            raise ValueError(msg)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            msg = f"{path} has unknown entries {unknown}; it was made by a newer release"
            raise ValueError(msg)
        return cls(**values)
