"""Checkpoints are loaded once per process, however many models and retrievers use them."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from refrag_components.engines.base import Engine
from refrag_components.exceptions import UnknownModelError
from refrag_components.forking import OwnLock
from refrag_components.generation.generator import RefragGenerator
from refrag_components.generation.named_engines import DEFAULT_ENGINE, make_engine
from refrag_components.generation.tools import calls_tools
from refrag_components.modeling import RefragModel
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.huggingface import position_limit
from refrag_components.weights.lookup import base_on_disk, checkpoint_folder

__all__ = [
    "AboutDecoder",
    "Checkpoint",
    "about_decoder",
    "answering_digest",
    "check_checkpoint",
    "checkpoint_digest",
    "load_checkpoint",
]

logger = logging.getLogger(__name__)


class Checkpoint:
    """A loaded checkpoint and what all its users share: weights, store in memory, engine.

    Args:
        model: Ready for inference.
        digest: Its ``checkpoint_digest``.

    Attributes:
        digest: Tells a checkpoint from a later one in the same folder.
        generator: Answers requests, all that run at the same time together; keeps the chunk vectors
            of passages that name no store.
    """

    def __init__(self, model: RefragModel, digest: str) -> None:
        self.digest = digest
        self.generator = RefragGenerator(model)
        self._engines: dict[str, Engine] = {}
        self._lock = OwnLock()

    @property
    def model(self) -> RefragModel:
        """The REFRAG model."""
        return self.generator.model

    def engine(self, engine: str | Engine | None) -> Engine:
        """The engine that settings ask for; one of a name is made once.

        Args:
            engine: A name that ``check_engine`` allows, an engine, or None for the default.

        Raises:
            EngineError: If it cannot be started, or cannot run this checkpoint's decoder.
        """
        if not isinstance(engine, str):
            return self.generator.engine if engine is None else engine
        if engine == DEFAULT_ENGINE:
            return self.generator.engine
        with self._lock:
            if engine not in self._engines:
                self._engines[engine] = make_engine(engine, self.model)
            return self._engines[engine]


@dataclass(frozen=True)
class _Look:
    """What a checkpoint's folder held when it was last looked at.

    Attributes:
        digest: Its ``checkpoint_digest``.
        at: When that was, in seconds of a monotonic clock.
    """

    digest: str
    at: float


_LOOK_AGAIN = 3.0  # seconds for which a folder's files are not looked at again

_lock = OwnLock()
_loaded: dict[tuple[str, str], Checkpoint] = {}
_failed: dict[tuple[str, str], str] = {}  # digests that could not replace what is loaded
_looks: dict[str, _Look] = {}


def load_checkpoint(name: str, device: str | None = None) -> Checkpoint:
    """Loads a checkpoint, or returns the one that is loaded already and has not changed since.

    Files are looked at again at most every few seconds. While a changed checkpoint cannot be
    loaded, because it is just being written, the one that is loaded continues to answer.

    Args:
        name: A bundled checkpoint's name, a checkpoint folder, or a hub id.
        device: As in ``RefragModel.from_pretrained``.

    Raises:
        UnknownModelError: If there is no such checkpoint.
        DownloadError: If base weights cannot be fetched.
    """
    slot = _slot(name, device)
    digest = checkpoint_digest(name)
    with _lock:  # two threads must not load the same weights twice
        known = _loaded.get(slot)
        if known is not None and digest in (known.digest, _failed.get(slot)):
            return known
        try:
            model = RefragModel.from_pretrained(name, device=slot[1])
        except Exception as error:  # a file that is being written breaks in many ways
            if known is None:
                raise
            logger.warning(
                "%s has changed and cannot be loaded; this is tried again when it "
                "changes again: %s",
                name,
                error,
            )
            _failed[slot] = digest
            return known
        _failed.pop(slot, None)
        _loaded[slot] = Checkpoint(model, digest)
        return _loaded[slot]


@dataclass(frozen=True)
class AboutDecoder:
    """What can be told of a decoder without its weights.

    Attributes:
        window: Its longest input in positions.
        tokenizer: Its tokenizer, with the chat template.
    """

    window: int
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, model: RefragModel) -> AboutDecoder:
        """What a loaded model's decoder is."""
        return cls(model.window, model.tokenizer)

    @property
    def calls_tools(self) -> bool:
        """Whether it can be told about tools, and its calls can be read."""
        return calls_tools(self.tokenizer)


def about_decoder(name: str, device: str | None = None) -> AboutDecoder | None:
    """What a checkpoint's decoder is; its weights are not loaded for it.

    Args:
        name: As for ``load_checkpoint``.
        device: As for ``load_checkpoint``.

    Returns:
        None if the decoder is not on this machine yet.

    Raises:
        RefragError: If neither the decoder's config nor its tokenizer says it.
        UnknownModelError: If there is no such checkpoint.
    """
    loaded = _loaded.get(_slot(name, device))
    if loaded is not None:
        return AboutDecoder.of(loaded.model)
    folder = checkpoint_folder(name)
    saved = folder / "decoder"
    decoder = saved if saved.is_dir() else base_on_disk(RefragConfig.from_folder(folder).decoder)
    if decoder is None:
        return None
    return _about(decoder, tuple(path.stat().st_mtime_ns for path in _described(decoder)))


def _described(decoder: Path) -> list[Path]:
    return sorted([*decoder.glob("*.json"), *decoder.glob("*.jinja")])


@lru_cache(maxsize=16)
def _about(decoder: Path, changed: tuple[int, ...]) -> AboutDecoder:
    config, tokenizer = AutoConfig.from_pretrained(decoder), AutoTokenizer.from_pretrained(decoder)
    return AboutDecoder(position_limit(config, tokenizer), tokenizer)


def answering_digest(name: str, device: str | None = None) -> str:
    """The digest of the checkpoint that would answer now; loads nothing that is not loaded.

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """
    if _slot(name, device) in _loaded:
        return load_checkpoint(name, device).digest
    return checkpoint_digest(name)


def _slot(name: str, device: str | None) -> tuple[str, str]:
    return name, device or ("cuda" if torch.cuda.is_available() else "cpu")


def check_checkpoint(name: str) -> None:
    """Refuses a name that no checkpoint has, without loading it.

    A checkpoint in use is not looked up again.

    Raises:
        DownloadError: The hub could not be reached.
        UnknownModelError: If there is no such checkpoint.
    """
    if name not in _looks:
        checkpoint_folder(name)


def checkpoint_digest(name: str) -> str:
    """Hash (hex) of every file of a checkpoint except its card, recomputed when a file changes.

    Two checkpoints that may answer differently never share it. (The model's fingerprint, which
    names chunk vectors, covers the encoder only.) Files are looked at again at most every few
    seconds; while a folder that was there before cannot be read, its last digest remains valid.

    Raises:
        UnknownModelError: If there is no such checkpoint.
    """
    look, now = _looks.get(name), time.monotonic()
    if look is not None and now - look.at < _LOOK_AGAIN:
        return look.digest
    try:
        digest = _digest_of_files(checkpoint_folder(name))
    except (OSError, UnknownModelError):
        if look is None:
            raise
        digest = look.digest
    _looks[name] = _Look(digest, now)
    return digest


def _digest_of_files(folder: Path) -> str:
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
