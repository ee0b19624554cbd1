"""What a REFRAG checkpoint is made of, as its ``config.json`` records it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refrag_components.checking import checked, parse_json
from refrag_components.exceptions import UnknownModelError

__all__ = ["CONFIG_NAME", "RefragConfig"]

CONFIG_NAME = "config.json"

_FOLDERS = ("chunk_adapter", "decoder", "decoder_adapter", "encoder", "encoder_adapter")

# Fields that files of version 1 do not have.
_SINCE_VERSION_2 = ("encoder_layers", "policy_vectors", "rungs")


@dataclass(frozen=True, kw_only=True)
class RefragConfig:
    """Configuration of a ``RefragModel``.

    Attributes:
        decoder: Base decoder: Hugging Face hub id or folder. Ignored if the checkpoint carries
            its own ``decoder/`` folder.
        encoder: Base encoder, likewise. With ``encoder_layers`` it makes search vectors only,
            and what ``policy_vectors`` says.
        encoder_layers: Number of the decoder's first layers whose copy, trained with the decoder,
            is the encoder; 0 for the Hugging Face encoder that ``encoder`` names.
        policy_vectors: With ``encoder_layers``: chunk vectors end with the vector that ``encoder``
            makes of the chunk, which policies read instead of the rest.
        chunk_size: Tokens per chunk (k) that the checkpoint uses by default.
        max_chunk_size: Largest k it can be used with; at least ``chunk_size``, and equal to it with
            ``encoder_layers``.
        rungs: The chunk sizes that a passage can have in a layout: multiples of ``chunk_size``,
            ascending, the first one ``chunk_size`` itself. Empty means ``chunk_size`` only.
        pooling: How token states become a chunk vector. "cls" needs ``contextual=False``.
        contextual: True encodes a whole passage in one pass and pools each chunk's span, so that a
            chunk vector knows its surroundings; False encodes each chunk alone, as the paper does.
        token_mlp: Hidden width of a projector that reads the chunk's tokens as well as its vector
            (the token ids are stored anyway); 0 for one that reads the vector only, as the
            paper's does.
        folders: Folders of weights that belong to a saved checkpoint, such as "decoder_adapter".
            Saving lists them here, and a checkpoint that lacks one of them is refused.
        model_type: Always "refrag".
        version: Version of this file format: 2 with ``encoder_layers``, otherwise 1, which earlier
            releases can read as well.

    Raises:
        ValueError: If a value is outside its range or contradicts another one.
    """

    decoder: str
    encoder: str
    encoder_layers: int = 0
    policy_vectors: bool = False
    chunk_size: int = 8
    max_chunk_size: int = 8
    rungs: tuple[int, ...] = ()
    pooling: Literal["mean", "cls"] = "mean"
    contextual: bool = True
    token_mlp: int = 512
    folders: tuple[str, ...] = ()
    model_type: Literal["refrag"] = "refrag"
    version: Literal[1, 2] = field(init=False)

    def __post_init__(self) -> None:
        """Checks ranges, and that the values are consistent."""
        object.__setattr__(self, "version", 2 if self.encoder_layers else 1)
        if not self.rungs:
            object.__setattr__(self, "rungs", (self.chunk_size,))
        if not 1 <= self.chunk_size <= self.max_chunk_size:
            msg = (
                f"chunk_size must be from 1 to max_chunk_size={self.max_chunk_size}, "
                f"got {self.chunk_size}"
            )
            raise ValueError(msg)
        if self.token_mlp < 0:
            msg = f"token_mlp must be the width of a hidden layer, or 0; got {self.token_mlp}"
            raise ValueError(msg)
        self._check_rungs()
        self._check_encoder()
        if unknown := set(self.folders).difference(_FOLDERS):
            msg = f"folders may name {', '.join(_FOLDERS)}; got {min(map(repr, unknown))}"
            raise ValueError(msg)
        if self.pooling == "cls" and self.contextual:
            msg = "pooling='cls' makes one vector per sequence; set contextual=False with it"
            raise ValueError(msg)

    def _check_rungs(self) -> None:
        ladder = self.rungs
        ascending = all(low < high for low, high in itertools.pairwise(ladder))
        multiples = all(rung % self.chunk_size == 0 for rung in ladder)
        if not (ladder[0] == self.chunk_size and ascending and multiples):
            msg = (
                f"rungs must be ascending multiples of chunk_size={self.chunk_size}, beginning "
                f"with it; got {ladder}"
            )
            raise ValueError(msg)

    def _check_encoder(self) -> None:
        if self.encoder_layers < 0:
            msg = f"encoder_layers must be a number of layers, or 0; got {self.encoder_layers}"
            raise ValueError(msg)
        if not self.encoder_layers:
            if self.policy_vectors:
                msg = (
                    "policy_vectors need an encoder made of decoder layers; without one policies "
                    "read the encoder's vectors anyway"
                )
                raise ValueError(msg)
            if len(self.rungs) > 1:
                msg = (
                    f"rungs={self.rungs} need an encoder made of decoder layers; set encoder_layers"
                )
                raise ValueError(msg)
            return
        needed = {
            "max_chunk_size": self.chunk_size,
            "pooling": "mean",
            "contextual": True,
            "token_mlp": 0,
        }
        for name, value in needed.items():
            if getattr(self, name) != value:
                msg = (
                    f"with encoder_layers={self.encoder_layers}, {name} must be {value!r}, "
                    f"got {getattr(self, name)!r}"
                )
                raise ValueError(msg)

    def at_chunk_size(self, chunk_size: int) -> RefragConfig:
        """The configuration with another k.

        Raises:
            ValueError: If the checkpoint cannot be used with it, or it is not a whole number.
        """
        if self.encoder_layers and chunk_size != self.chunk_size:
            msg = (
                f"this checkpoint's encoder works with chunks of {self.chunk_size} tokens only; "
                f"leave out chunk_size={chunk_size} and choose one of its rungs {self.rungs} "
                "instead"
            )
            raise ValueError(msg)
        rungs = self.rungs if self.encoder_layers else ()
        values = dataclasses.asdict(self) | {"chunk_size": chunk_size, "rungs": rungs}
        del values["version"]
        return checked(RefragConfig, values)

    def to_json(self) -> str:
        """Returns the configuration as indented JSON."""
        values = dataclasses.asdict(self)
        if self.version == 1:
            values = {name: value for name, value in values.items() if name not in _SINCE_VERSION_2}
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_folder(cls, folder: str | Path) -> RefragConfig:
        """Reads ``config.json`` of a checkpoint folder.

        Raises:
            UnknownModelError: If there is no such file or it is not a REFRAG configuration.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            values: Any = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            msg = f"{folder} is not a REFRAG checkpoint; its {CONFIG_NAME}: {error.strerror}"
            raise UnknownModelError(msg) from error
        except ValueError as error:
            raise UnknownModelError(f"{path} is not valid JSON: {error}") from error
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind != "refrag":
            what = f"an ordinary {kind} model" if kind else "something else"
            msg = (
                f"{path} describes {what}, not a REFRAG checkpoint; to make one from a model, "
                "name it as the decoder or the encoder in a training recipe"
            )
            raise UnknownModelError(msg)
        version = values.pop("version", None)
        if type(version) is not int or version not in (1, 2):
            msg = f"{path} has version {version!r}; this release reads versions 1 and 2"
            raise UnknownModelError(msg)
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        if version == 1:
            known -= set(_SINCE_VERSION_2)
        if unknown := sorted(set(values) - known):
            msg = f"{path} has unknown entries {unknown}; another version of the library wrote it"
            raise UnknownModelError(msg)
        if version == 2 and not values.get("encoder_layers"):
            msg = (
                f"{path} has version 2 but no encoder_layers; copy or download the checkpoint again"
            )
            raise UnknownModelError(msg)
        try:
            return checked(cls, values)
        except ValueError as error:
            raise UnknownModelError(f"{path} cannot be used: {error}") from error
