"""Files that were not indexed, or perhaps read wrongly: why, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_components.cli.common import say, shown

if TYPE_CHECKING:
    from refrag_components.text.documents import Skipped

__all__ = ["tell_all", "tell_counts", "write_report"]


def tell_all(title: str, files: Iterable[Skipped]) -> None:
    """A line per file."""
    for file in files:
        say(f"{title}: {shown(file.path)} {shown(file.reason)}", "yellow")


def tell_counts(title: str, files: Iterable[Skipped]) -> None:
    """A line per suffix and reason, the most frequent first, with the first of these files."""
    from refrag_components.text.documents import is_supported

    groups: dict[tuple[str, str], list[Skipped]] = defaultdict(list)
    for file in files:
        groups[Path(file.path).suffix.lower(), _kind(file)].append(file)
    for (suffix, _), (first, *others) in sorted(groups.items(), key=lambda group: -len(group[1])):
        more = f" ({len(others)} more {suffix or 'like it'})" if others else ""
        advice = ""
        if not is_supported(Path(first.path)):
            excluding = f"; --exclude '*{suffix}' leaves them out"
            advice = excluding if suffix else "; name it .txt if it is text"
        say(f"{title}: {shown(first.path)} {shown(first.reason)}{advice}{more}", "yellow")


def write_report(path: Path, files: Sequence[Skipped]) -> None:
    """A file of a line per file: path, tab, reason."""
    lines = (f"{file.path}\t{' '.join(file.reason.split())}\n" for file in files)
    path.write_text("".join(lines), encoding="utf-8", errors="replace")


def _kind(file: Skipped) -> str:
    """A reason without what is different for every file: numbers, and what a library says."""
    return "".join(c for c in file.reason.partition(":")[0] if not c.isdigit())
