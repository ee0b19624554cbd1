"""States of a stage's training, from which a killed run continues.

A state is a folder ``state-N`` in the folder of its stage, N the number of steps done. What is in
it is the trainer's matter; the steps and the stage's elapsed time are kept here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refrag_components.atomic import atomic_folder
from refrag_components.checking import checked, parse_json

__all__ = ["State", "last_state", "new_state", "remove_left_overs"]

_FACTS = "state.json"
_KEPT = 2


@dataclass(frozen=True)
class State:
    """A complete state.

    Attributes:
        folder: Where it is.
        steps: Steps done.
        elapsed: Seconds of the stage that count towards its limit; 0 without a limit.
    """

    folder: Path
    steps: int
    elapsed: float

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name


@dataclass(frozen=True)
class _Facts:
    steps: int
    elapsed: float


@contextmanager
def new_state(folder: Path, *, steps: int, elapsed: float) -> Iterator[Path]:
    """Gives a folder to write a state to, which is in its place, complete, after the block.

    Then all states except the newest two are removed. If the block fails, nothing changes.

    Args:
        folder: Of the stage.
        steps: Steps done.
        elapsed: Seconds of the stage that count towards its limit.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_folder(folder / f"state-{steps}", replace=True) as scratch:
        yield scratch
        facts = json.dumps({"steps": steps, "elapsed": elapsed})
        (scratch / _FACTS).write_text(facts + "\n", encoding="utf-8")
    for old in _complete(folder)[:-_KEPT]:
        shutil.rmtree(old.folder)


def last_state(folder: Path) -> State | None:
    """Finds the newest complete state in the folder of a stage.

    A folder without readable facts, which are written last, is passed over.
    """
    return next(reversed(_complete(folder)), None)


def remove_left_overs(folder: Path) -> None:
    """Removes the states in the folder of a stage that a killed run did not write to their end."""
    complete = {state.folder for state in _complete(folder)}
    for path in (*folder.glob(".state-*"), *folder.glob("state-*")):
        if path not in complete:
            shutil.rmtree(path)


def _complete(folder: Path) -> list[State]:
    """All complete states, the newest last."""
    found = []
    for path in folder.glob("state-*"):
        try:
            facts = checked(_Facts, parse_json((path / _FACTS).read_bytes()))
        except (OSError, ValueError):
            continue
        found.append(State(path, facts.steps, facts.elapsed))
    return sorted(found, key=lambda state: state.steps)
