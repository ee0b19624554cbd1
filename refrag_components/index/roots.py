"""Which folders an index was made from, and whether a file that is not there is gone for good."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from refrag_components.checking import parse_json
from refrag_components.index.catalog import Catalog

__all__ = ["absent", "is_below", "is_certain", "known_roots", "missing", "remember_root"]

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


def missing(
    catalog: Catalog, root: str, seen: Collection[str], *, prune: bool
) -> tuple[list[str], list[str]]:
    """Finds indexed documents that a folder no longer holds, and those whose folders are gone.

    Args:
        catalog: The indexed documents.
        root: The folder that has just been read.
        seen: Paths of what it holds.
        prune: Count also documents of folders whose drive may just not be mounted.

    Returns:
        Paths of the documents, and the folders whose documents were not counted.
    """
    roots = known_roots(catalog)
    closed = [path for path in seen if Path(path).is_dir()]
    sure = {other: prune or is_certain(other, roots) for other in roots}
    gone: list[str] = []
    unsure: list[str] = []
    for path in catalog.all_paths():
        home = max((r for r in roots if is_below(path, r)), key=len, default="")
        if home == root and path not in seen:
            gone += [path] * (not any(is_below(path, folder) for folder in closed))
        elif home not in ("", root) and absent(path):
            if sure[home]:
                gone.append(path)
            elif home not in unsure:
                unsure.append(home)
    return gone, unsure
