"""The files of Qdrant's embedded client, which hold pickles: read only if they hold data alone."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
from contextlib import closing
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from refrag_components.exceptions import StoreError

__all__ = ["check_pickles"]

_PLAIN = {(kind.__module__, kind.__qualname__): kind for kind in (UUID, date, datetime)}
# A view could show other rows to the next who looks.
_IS_TABLE = (
    "SELECT count(*) FROM sqlite_master WHERE name = 'points' AND type = 'table' AND rootpage > 0"
)
_MODELS = "qdrant_client.http.models.models"


def check_pickles(folder: Path) -> None:
    """Makes sure that opening a folder with the embedded client runs nobody's code.

    The client unpickles every point of every collection in the folder, and a pickle can call
    whatever it names. Here each is read first by a reader that knows the client's own data classes
    and nothing else.

    Args:
        folder: Of the embedded client; need not exist.

    Raises:
        StoreError: If a file names anything else, or cannot be read.
    """
    for path in _files(folder):
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
                if file.execute(_IS_TABLE).fetchone() != (1,):
                    raise ValueError("its points are not a table")
                for (point,) in file.execute("SELECT point FROM points"):
                    _DataOnly(io.BytesIO(point)).load()
        except Exception as error:  # a damaged pickle raises almost anything
            msg = (
                f"{path} is not what Qdrant's client writes for data ({error}); opening it could "
                "run somebody's code, so it was left alone"
            )
            raise StoreError(msg) from error


def _files(folder: Path) -> list[Path]:
    """The files that the client reads; their names are in a file of the folder too."""
    try:
        content = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        names = list(content["collections"])
    except FileNotFoundError:
        return []
    except (LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        msg = f"{folder} is damaged or no folder of Qdrant's client: {error}"
        raise StoreError(msg) from error
    paths = [folder / "collection" / name / "storage.sqlite" for name in names]
    return [path for path in paths if path.exists()]


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if module == _MODELS and name.isidentifier():
            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, (BaseModel, Enum)):
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")
