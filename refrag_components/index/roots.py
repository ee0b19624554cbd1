"""Which folders an index was made from, and whether a file that is not there is gone for good."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from refrag_components.checking import parse_json
from refrag_components.index.catalog import Catalog

__all__ = ["absent", "is_below", "is_certain", "known_roots", "remember_root"]

_FACT = "roots"


def known_roots(catalog: Catalog) -> dict[str, int]:
    """Folders and files that were indexed, each with the device that it was on."""
    try:
        roots = parse_json(catalog.fact(_FACT) or "{}")
        return {str(root): int(device) for root, device in roots.items()}
    except (AttributeError, RecursionError, TypeError, ValueError):
        return {}  # damaged: they are remembered again when they are indexed again


def remember_root(catalog: Catalog, root: Path) -> None:
    """Remembers a folder or file that is being indexed."""
    roots = known_roots(catalog) | {str(root): root.stat().st_dev}
    catalog.set_fact(_FACT, json.dumps(roots))


def is_below(path: str, root: str) -> bool:
    """Whether a path is a root or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def is_certain(root: str, roots: Mapping[str, int]) -> bool:
    """Whether what is not found below a root has been deleted or moved.

    If not, its drive may be one that is not mounted: then the folder is empty or absent, and what
    is left of its path is on another device than the folder was.
    """
    place = Path(root)
    try:
        if place.is_dir() and any(place.iterdir()):
            return True
        while not place.exists():
            place = place.parent
        return place.stat().st_dev == roots[root]
    except OSError:
        return False


def absent(path: str) -> bool:
    """Whether there is no such file; not so if its folder may not be looked into."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
