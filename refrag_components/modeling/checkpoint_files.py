"""The files of a checkpoint that hold what training changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from refrag_components.exceptions import UnknownModelError
from refrag_components.modeling.adapters import CHUNK_ADAPTER, EVERYWHERE
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.trained_weights import check_weights

__all__ = [
    "ADAPTER_FILE",
    "PROJECTOR_FILE",
    "LoadedAdapter",
    "check_files",
    "halve",
    "save_adapter",
    "state_digest",
]

ADAPTER_FILE = "adapter_model.safetensors"
PROJECTOR_FILE = "projector.safetensors"

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTERS = ("decoder_adapter", "encoder_adapter", CHUNK_ADAPTER)


def check_files(folder: Path, config: RefragConfig) -> None:
    """Checks that the files which training changed are there and not truncated."""
    for name in config.folders:
        if not (folder / name).is_dir():
            msg = f"{folder / name} is missing; copy or download the checkpoint again"
            raise UnknownModelError(msg)
    if config.encoder_layers:
        check_weights(folder)
        return
    if (folder / CHUNK_ADAPTER).is_dir() and not (folder / "decoder_adapter").is_dir():
        msg = f"{folder} has a {CHUNK_ADAPTER} but no decoder_adapter; copy or download it again"
        raise UnknownModelError(msg)
    adapters = [path for name in _ADAPTERS if (path := folder / name).is_dir()]
    tensors = [folder / PROJECTOR_FILE, *(adapter / ADAPTER_FILE for adapter in adapters)]
    try:
        for path in tensors:
            with safe_open(path, "np"):
                pass
        for path in (adapter / _ADAPTER_CONFIG for adapter in adapters):
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error}); copy or download the checkpoint again"
        raise UnknownModelError(msg) from error


def halve(path: Path) -> None:
    """Rewrites a safetensors file in float16: half the size, far finer than training noise."""
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)


def state_digest(state: dict[str, Tensor]) -> bytes:
    """Hash of names and values of the floating-point tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        if tensor.is_floating_point():
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.digest()


class LoadedAdapter:
    """An adapter that was merged or attached to a model, and can be copied from its files.

    Args:
        folder: Folder of the adapter, as PEFT writes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._state = self._stat()

    def copy(self, folder: Path) -> None:
        """Copies it into a subfolder of the same name.

        Raises:
            UnknownModelError: If its files are gone or are no longer those that were loaded.
        """
        if self._stat() != self._state:
            msg = (
                f"{self._folder} was removed or replaced after the model was loaded from it; load "
                "the model again before saving it"
            )
            raise UnknownModelError(msg)
        shutil.copytree(self._folder, folder / self._folder.name)

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = (self._folder / ADAPTER_FILE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size


def save_adapter(model: PeftModel, name: str, folder: Path, base: str) -> None:
    """Writes one adapter in float16.

    Args:
        model: Model that has the adapter.
        name: PEFT's name of the adapter; any but its default gets a subfolder of that name.
        folder: Folder to write to.
        base: What to call the base model; PEFT would record its path on this machine.
    """
    model.peft_config[name].base_model_name_or_path = base
    # Embeddings are never adapted; told so, PEFT need not ask the hub for the base's vocabulary.
    model.save_pretrained(str(folder), selected_adapters=[name], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    halve((folder if name == EVERYWHERE else folder / name) / ADAPTER_FILE)
