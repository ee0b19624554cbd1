"""How many passages a folder will come to, judged by the files of it that were read so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from refrag_components.text.documents import MAX_FILE_BYTES, is_supported

__all__ = ["Forecast"]


class Forecast:
    """Expects of files that are still to be read what those of the same type came to.

    Args:
        files: The files.
        known: Paths of documents that are indexed; most of them will not have changed.
    """

    def __init__(self, files: Iterable[Path], known: Collection[str]) -> None:
        self._sizes = {
            str(path): _size(path)
            for path in files
            if str(path) not in known and is_supported(path)
        }
        self._ahead: Counter[str] = Counter()  # bytes that are still to be read, by suffix
        for path, size in self._sizes.items():
            self._ahead[_suffix(path)] += size
        self._read: Counter[str] = Counter()  # bytes
        self._passages: Counter[str] = Counter()

    def note(self, path: str, passages: int = 0) -> None:
        """Notes that a file was read."""
        size = self._sizes.pop(path, 0)
        if size:
            self._ahead[_suffix(path)] -= size
            self._read[_suffix(path)] += size
            self._passages[_suffix(path)] += passages

    @property
    def ahead(self) -> int:
        """Passages of files that are still to be read; 0 while nothing can be said."""
        read, passages = sum(self._read.values()), sum(self._passages.values())
        expected = 0.0
        for suffix, size in self._ahead.items():
            if self._read[suffix]:
                expected += size * self._passages[suffix] / self._read[suffix]
            elif read:
                expected += size * passages / read
        return round(expected)


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return size if size <= MAX_FILE_BYTES else 0
