"""Indexing that is killed loses nothing and doubles nothing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.index.killing import Trial

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of os.fork next to threads
]


@pytest.mark.parametrize("other_store", [False, True])
def test_killed_at_any_moment(tmp_path: Path, other_store: bool) -> None:
    trial = Trial(tmp_path, other_store=other_store)
    rng = random.Random(f"{other_store}")
    outcomes = [trial.kill(rng) for _ in range(5)]
    assert len({outcome.call for outcome in outcomes}) == 5
    assert any(outcome.kept for outcome in outcomes)
