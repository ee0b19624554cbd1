"""What the user has agreed to: which store and which model an index folder may name.

An index folder names its store and its model, and anybody may have written it. Following a name
means connecting to a host, with this machine's passwords where environment variables hold them, or
fetching and loading files. A name is therefore followed only if the user gave it on this machine,
for this folder. That is recorded in the user's own folder, never in the index.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from refrag_components.atomic import atomic_file

__all__ = ["Kind", "has_agreed", "record_agreement"]

logger = logging.getLogger(__name__)

Kind = Literal["model", "store"]

_CONTENT = TypeAdapter(dict[str, dict[Kind, str]])
_LOCK_SECONDS = 5.0


def has_agreed(folder: Path, kind: Kind, name: str) -> bool:
    """Whether the user of this machine once gave this name for this folder."""
    return _read().get(_place(folder), {}).get(kind) == name


def record_agreement(folder: Path, kind: Kind, name: str) -> None:
    """Remembers that the user gave this name for this folder.

    If it cannot be written the user only has to give the name again.
    """
    if has_agreed(folder, kind, name):
        return
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            known = {place: names for place, names in _read().items() if os.path.isdir(place)}
            known[_place(folder)] = {**known.get(_place(folder), {}), kind: name}
            with atomic_file(path) as scratch:
                scratch.write_bytes(_CONTENT.dump_json(known, indent=1))
    except (OSError, Timeout) as error:
        logger.info("the %s of %s has to be named again: %s", kind, folder, error)


def _read() -> dict[str, dict[Kind, str]]:
    try:
        return _CONTENT.validate_json(_file().read_bytes(), strict=True)
    except (OSError, ValidationError):  # nothing was agreed to yet, or it cannot be told
        return {}


def _file() -> Path:
    return platformdirs.user_data_path("refrag-components") / "agreed.json"


def _place(folder: Path) -> str:
    return os.path.realpath(folder)
