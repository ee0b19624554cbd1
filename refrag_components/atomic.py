"""Files and folders that appear at once, complete.

What is written has another name until it is whole: neither a reader nor a process that is killed
ever leaves half of it in its place. What a kill leaves next to it has a name with a dot in front.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

__all__ = ["atomic_file", "atomic_folder"]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Gives a path to write to; the file there takes its place at the end of the block.

    If the block fails, the file that was there stays as it was.

    Args:
        path: The file's place; its folder is made if it is missing.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Gives an empty folder to write to, which takes its place at the end of the block.

    If the block fails, nothing of it is left.

    Args:
        path: The folder's place; the one that it stands in is made if it is missing.
        replace: Whether a folder that is there goes, once the new one is complete.

    Raises:
        OSError: If it cannot be written, or the place is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        if replace and path.exists():
            shutil.rmtree(path)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
