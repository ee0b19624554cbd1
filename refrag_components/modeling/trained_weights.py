"""Weight files of a checkpoint all of whose weights were trained.

Decoder, encoder and projector are each stored in files ``PART-00001-of-00002.safetensors``, as a
quantised difference to the weights of an untrained model with the same base.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.weight_difference import (
    Bits,
    apply_difference,
    quantise_difference,
)

__all__ = [
    "LoadedWeights",
    "check_weights",
    "encoder_files_digest",
    "load_weights",
    "save_weights",
]

#: Weights of each part of a model by name.
Parameters = Mapping[str, Mapping[str, Tensor]]

_PARTS = ("decoder", "encoder", "projector")
_LARGEST = 45_000_000  # bytes of the tensors in a file; the file itself is hardly larger


class LoadedWeights:
    """The files that a model's weights were loaded from, to be copied as they are.

    Args:
        folder: Folder of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._state = self._stat()

    def copy(self, folder: Path) -> None:
        """Copies them into another folder.

        Raises:
            UnknownModelError: If they are gone or are no longer those that were loaded.
        """
        if self._stat() != self._state:
            msg = (
                f"{self._folder} was removed or replaced after the model was loaded from it; load "
                "the model again before saving it"
            )
            raise UnknownModelError(msg)
        for name in self._state:
            shutil.copy(self._folder / name, folder)

    def _stat(self) -> dict[str, tuple[int, int]]:
        try:
            files = [path for part in _PARTS for path in _files(self._folder, part)]
            stats = {path.name: path.stat() for path in files}
        except (OSError, UnknownModelError):
            return {}
        return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def check_weights(folder: Path) -> None:
    """Checks that all files are there and not truncated.

    Raises:
        UnknownModelError: If one is missing or damaged.
    """
    for part in _PARTS:
        for path in _files(folder, part):
            _read(path, header_only=True)


def save_weights(trained: Parameters, start: Parameters, folder: Path, bits: Bits) -> None:
    """Writes the difference between the weights of an untrained model and a trained one.

    Args:
        trained: The weights of "decoder", "encoder" and "projector".
        start: Those of the untrained model, before ``randomise``.
        folder: Folder to write to.
        bits: Bits per value of a matrix.
    """
    for part in _PARTS:
        files = _split(quantise_difference(start[part], trained[part], bits))
        for i, tensors in enumerate(files, start=1):
            save_file(tensors, folder / f"{part}-{i:05d}-of-{len(files):05d}.safetensors")


def load_weights(start: Parameters, folder: Path) -> None:
    """Replaces the weights of an untrained model by those of a checkpoint.

    Args:
        start: The weights of the untrained model, before ``randomise``; changed in place.
        folder: Folder of the checkpoint.

    Raises:
        UnknownModelError: If files or tensors are missing, unknown or damaged.
    """
    for part in _PARTS:
        tensors: dict[str, Tensor] = {}
        for path in _files(folder, part):
            tensors.update(_read(path))
        try:
            trained = apply_difference(start[part], tensors)
        except UnknownModelError as error:
            raise UnknownModelError(f"{folder}, weights of the {part}: {error}") from error
        for name, value in trained.items():
            start[part][name].data.copy_(value)


def encoder_files_digest(folder: Path) -> bytes:
    """Hash of the encoder's files, byte by byte."""
    digest = hashlib.blake2b(digest_size=16)
    for path in _files(folder, "encoder"):
        digest.update(path.read_bytes())
    return digest.digest()


def _split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Distributes tensors, sorted by name, over files that are filled one after another."""
    files: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in sorted(tensors):
        needed = tensors[name].nbytes + len(name) + 100  # about what it takes in the header
        if files[-1] and size + needed > _LARGEST:
            files.append({})
            size = 0
        files[-1][name] = tensors[name]
        size += needed
    return files


def _files(folder: Path, part: str) -> list[Path]:
    """A part's files in order, whether or not they exist."""
    pattern = re.compile(rf"{part}-\d{{5}}-of-(\d{{5}})\.safetensors")
    found = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    totals = {int(match.group(1)) for match in found} or {1}
    if len(totals) > 1:
        msg = (
            f"{folder} mixes files of two versions of the {part}'s weights; copy or download it "
            "again"
        )
        raise UnknownModelError(msg)
    (total,) = totals
    numbers = range(1, total + 1)
    return [folder / f"{part}-{i:05d}-of-{total:05d}.safetensors" for i in numbers]


def _read(path: Path, *, header_only: bool = False) -> dict[str, Tensor]:
    try:
        if header_only:
            with safe_open(path, "np"):
                return {}
        tensors: dict[str, Tensor] = load_file(path)
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"values in {name} are not numbers")
        return tensors
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error}); copy or download the checkpoint again"
        raise UnknownModelError(msg) from error
