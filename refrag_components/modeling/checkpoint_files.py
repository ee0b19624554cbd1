"""The files of a checkpoint that hold what training changed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from refrag_components.checking import checked, parse_json
from refrag_components.exceptions import RefragError, UnknownModelError
from refrag_components.modeling.adapters import CHUNK_ADAPTER, EVERYWHERE
from refrag_components.modeling.config import RefragConfig
from refrag_components.modeling.trained_weights import check_weights

__all__ = [
    "ADAPTER_FILE",
    "PROJECTOR_FILE",
    "LoadedAdapter",
    "check_adapter",
    "check_files",
    "damage_named",
    "halve",
    "read_tensors",
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
            checked(_AdapterConfig, parse_json(path.read_text(encoding="utf-8")))
    except (OSError, SafetensorError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error}); copy or download the checkpoint again"
        raise UnknownModelError(msg) from error


class _AdapterConfig(BaseModel):
    """What may stand in an adapter's config: a plain LoRA adapter's.

    Others name modules to import, expressions to match or further files; what is not listed here
    must be empty.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=65536)]
    lora_alpha: Annotated[float, Field(gt=0)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[Annotated[str, Field(pattern=r"^[\w.]+$")]]
    init_lora_weights: bool = True
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none"] = "none"
    # These say where the adapter comes from; loading follows none of them.
    auto_mapping: object = None
    base_model_name_or_path: object = None
    inference_mode: object = None
    megatron_core: object = None
    peft_version: object = None
    qalora_group_size: object = None
    revision: object = None
    task_type: object = None

    @model_validator(mode="after")
    def _nothing_else(self) -> _AdapterConfig:
        if odd := sorted(name for name, value in (self.model_extra or {}).items() if value):
            raise ValueError(f"{odd[0]} is nothing that this library's adapters have")
        return self


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Names the checkpoint in whatever goes wrong while it is loaded.

    A damaged file makes the libraries that read it raise almost anything.

    Raises:
        UnknownModelError: If the block raises anything else than the library's own errors.
    """
    try:
        yield
    except RefragError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        msg = (
            f"{folder} cannot be loaded ({reason}); if it was cut short or altered, copy or "
            "download the checkpoint again"
        )
        raise UnknownModelError(msg) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        UnknownModelError: If a value is not a finite number.
    """
    tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            msg = f"{path} holds values in {name} that are not numbers; copy or download it again"
            raise UnknownModelError(msg)
    return tensors


def check_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Makes sure that an adapter's file held all of its weights and nothing else.

    PEFT leaves what is missing as it was drawn, and ignores the rest.

    Raises:
        UnknownModelError: If weights are missing, left over or not finite.
    """
    state: Any = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors = read_tensors(folder / ADAPTER_FILE)
    if different := set(state) ^ set(tensors):
        msg = (
            f"{folder / ADAPTER_FILE} does not fit its {_ADAPTER_CONFIG} or the model "
            f"({min(different)}); copy or download the checkpoint again"
        )
        raise UnknownModelError(msg)


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
