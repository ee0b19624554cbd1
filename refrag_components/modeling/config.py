"""What a REFRAG checkpoint is made of, as it stands in its ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from refrag_components.exceptions import UnknownModelError

__all__ = ["CONFIG_NAME", "RefragConfig"]

CONFIG_NAME = "config.json"

_FOLDERS = ("chunk_adapter", "decoder", "decoder_adapter", "encoder", "encoder_adapter")


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
        token_mlp: Hidden width of a projector that reads the chunk's tokens beside its vector
            (the token ids are stored anyway); 0 for one that reads the vector alone, as the
            paper's does.
        folders: Folders of weights that belong to a saved checkpoint, such as "decoder_adapter".
            Saving writes them here, and a checkpoint that lacks one of them is refused.
        model_type: Always "refrag".
        version: Version of this file format.
    """

    decoder: str
    encoder: str
    chunk_size: int = 8
    max_chunk_size: int = 8
    pooling: Literal["mean", "cls"] = "mean"
    contextual: bool = True
    token_mlp: int = 512
    folders: tuple[str, ...] = ()
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
        if self.token_mlp < 0:
            msg = f"token_mlp must be the width of a hidden layer or 0, got {self.token_mlp}"
            raise ValueError(msg)
        if self.pooling not in ("mean", "cls"):
            msg = f"pooling must be 'mean' or 'cls', got {self.pooling!r}"
            raise ValueError(msg)
        if unknown := set(self.folders).difference(_FOLDERS):
            msg = f"folders may name {', '.join(_FOLDERS)}; got {min(map(repr, unknown))}"
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
            UnknownModelError: If there is no such file or it is no REFRAG configuration.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{folder} is no REFRAG checkpoint, its {CONFIG_NAME}: {error.strerror}"
            raise UnknownModelError(msg) from error
        except ValueError as error:
            raise UnknownModelError(f"{path} is not valid JSON: {error}") from error
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind != "refrag":
            what = f"an ordinary {kind} model" if kind else "something else"
            msg = (
                f"{path} describes {what}, not a REFRAG checkpoint; to make one of a model, "
                "name it as the decoder or the encoder in a training recipe"
            )
            raise UnknownModelError(msg)
        if values.get("version") != 1:
            msg = f"{path} has version {values.get('version')!r}; this release reads version 1"
            raise UnknownModelError(msg)
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            msg = f"{path} has unknown entries {unknown}: another version of the library wrote it"
            raise UnknownModelError(msg)
        try:
            return cls(**values | {"folders": tuple(values.get("folders", ()))})
        except (TypeError, ValueError) as error:
            raise UnknownModelError(f"{path} cannot be used: {error}") from error
