"""Which files of a folder are documents."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from gitignore_parser import parse_gitignore_str

from refrag_components.exceptions import DocumentError

__all__ = ["find_files"]

_Ignores = Callable[[str], bool]

# What tools write, under names that nothing else has.
_MADE = {"__pycache__", "__pypackages__", "bower_components", "node_modules", "site-packages"}
# What tools write into a folder of a project, where one of these files shows that it is one.
_BUILT = {"build", "dist", "out", "target", "venv", "env"}
_PROJECTS = {
    "Cargo.toml", "Makefile", "build.gradle", "package.json", "pom.xml", "pyproject.toml",
    "setup.py",
}  # fmt: skip
_MOST_IGNORED = 2**16  # characters of a .gitignore
_MOST_STARS = 6  # of a line in it; each multiplies the time that a name may take
_INDEX = {"meta.json", "store.sqlite"}  # what ``RefragIndex`` writes


def find_files(folder: str | os.PathLike[str], *, exclude: Sequence[str] = ()) -> Iterator[Path]:
    """Finds the files below a folder, in the order of their names.

    Left out are hidden files, what tools put into projects (``node_modules``, virtual environments,
    build outputs), indexes, and what a ``.gitignore`` names in the folder or below it, or above it
    in the same repository, unless that names the folder itself.

    Args:
        folder: The folder; a file stands for itself.
        exclude: Patterns of names, or of paths below the folder, to leave out, as in
            ``*.log`` or ``drafts/*``.

    Returns:
        Absolute paths. A folder that cannot be listed is returned itself, for ``load_document``
        to report.

    Raises:
        DocumentError: If there is no such folder.
    """
    path = Path(folder).resolve()
    if not path.exists():
        raise DocumentError(f"{path} does not exist; name a folder with documents, or a file")
    return _walk(path, tuple(exclude)) if path.is_dir() else iter([path])


def _walk(root: Path, exclude: tuple[str, ...]) -> Iterator[Path]:
    # The next one last; no recursion, since folders nest without limit.
    waiting: list[tuple[Path, tuple[_Ignores, ...] | None]] = [(root, _ignored_above(root))]
    while waiting:
        path, ignores = waiting.pop()
        if ignores is None:
            yield path
            continue
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield path
            continue
        names = {entry.name for entry in entries}
        if path != root and _is_made(path.name, names):
            continue
        if ".gitignore" in names:
            ignores = (*ignores, *_ignored_by(path / ".gitignore"))
        project = bool(names & _PROJECTS)
        for entry in entries:
            below = os.path.relpath(entry.path, root).replace(os.sep, "/")
            if (
                entry.name.startswith(".")
                or (project and entry.name in _BUILT)
                or any(fnmatch(entry.name, p) or fnmatch(below, p.rstrip("/")) for p in exclude)
                or any(ignore(entry.path) for ignore in ignores)
            ):
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            waiting.append((Path(entry.path), ignores if is_folder else None))


def _is_made(name: str, names: set[str]) -> bool:
    """Whether a folder of this name that holds these files was made by a tool."""
    return name in _MADE or "pyvenv.cfg" in names or names >= _INDEX


def _ignored_above(root: Path) -> tuple[_Ignores, ...]:
    """What the repository that a folder is in ignores, unless it ignores the folder."""
    ignores: list[_Ignores] = []
    for folder in (root, *root.parents):
        if folder != root:
            ignores += _ignored_by(folder / ".gitignore")
        if (folder / ".git").exists():
            return () if any(ignore(str(root)) for ignore in ignores) else tuple(ignores)
    return ()


def _ignored_by(path: Path) -> tuple[_Ignores, ...]:
    """What a ``.gitignore`` ignores; lines that cannot be understood ignore nothing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[:_MOST_IGNORED].splitlines()
    except OSError:
        return ()
    rules = "\n".join(line for line in lines if _makes_sense(line, path))
    return (parse_gitignore_str(rules, str(path.parent)),)


def _makes_sense(rule: str, path: Path) -> bool:
    try:
        parse_gitignore_str(rule, str(path.parent))(str(path))
    except (IndexError, re.error):
        return False
    return rule.count("*") <= _MOST_STARS
