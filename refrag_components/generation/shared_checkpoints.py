"""Checkpoints are loaded once a process, however many models and retrievers use them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from refrag_components.engines import SamplingParams
from refrag_components.generation.batching import Batcher
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.requests import Answer, Request
from refrag_components.modeling import RefragModel
from refrag_components.weights.lookup import checkpoint_folder

__all__ = ["Checkpoint", "checkpoint_digest", "load_checkpoint"]


class Checkpoint:
    """A loaded checkpoint and what all its users share: weights, store in memory, batches.

    Args:
        model: Ready for inference.
        digest: Its ``checkpoint_digest``.

    Attributes:
        digest: Tells a checkpoint from what stands in the same folder later.
        generator: Answers requests; keeps the chunk vectors of passages that name no store.
    """

    def __init__(self, model: RefragModel, digest: str) -> None:
        self.digest = digest
        self.generator = RefragGenerator(model)
        self._batcher = Batcher[tuple[Request, SamplingParams], Answer](self._answer_all)

    @property
    def model(self) -> RefragModel:
        """The REFRAG model."""
        return self.generator.model

    def answer(self, request: Request, params: SamplingParams) -> Answer:
        """Answers a request, together with those that other threads make meanwhile."""
        return self._batcher((request, params))

    def _answer_all(self, calls: Sequence[tuple[Request, SamplingParams]]) -> list[Answer]:
        requests, params = zip(*calls, strict=True)
        return self.generator.generate(requests, params)


_lock = threading.Lock()
_loaded: dict[tuple[str, str], Checkpoint] = {}


def load_checkpoint(name: str, device: str | None = None) -> Checkpoint:
    """Loads a checkpoint, or returns the one that is loaded already and has not changed since.

    Args:
        name: A bundled checkpoint's name, a checkpoint folder, or a hub id.
        device: As in ``RefragModel.from_pretrained``.

    Raises:
        UnknownModelError: If there is no such checkpoint.
        DownloadError: If base weights cannot be fetched.
    """
    place = (name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    digest = checkpoint_digest(name)
    with _lock:  # two threads must not load the same weights twice
        known = _loaded.get(place)
        if known is None or known.digest != digest:
            known = Checkpoint(RefragModel.from_pretrained(name, device=place[1]), digest)
            _loaded[place] = known
        return known


def checkpoint_digest(name: str) -> str:
    """Hash over every file of a checkpoint but its card (hex), taken again when a file changes.

    Two checkpoints that may answer differently never share it. (The model's fingerprint, which
    names chunk vectors, covers the encoder only.)

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """
    folder = checkpoint_folder(name)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
    stats = [path.stat() for path in files]
    return _digest(
        folder,
        tuple(files),
        tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats),
    )


@lru_cache(maxsize=16)
def _digest(folder: Path, files: tuple[Path, ...], stamps: tuple[tuple[int, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, (size, *_) in zip(files, stamps, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
