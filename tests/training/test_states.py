"""A killed run finds the last state that is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.training.states import last_state, new_state, remove_left_overs


def save(folder: Path, steps: int, elapsed: float = 0.0) -> None:
    with new_state(folder, steps=steps, elapsed=elapsed) as scratch:
        (scratch / "weights").write_text(str(steps))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_newest_state_is_found_with_its_steps_and_time(tmp_path: Path) -> None:
    assert last_state(tmp_path) is None
    assert last_state(tmp_path / "missing") is None
    save(tmp_path, 9, 1.5)
    save(tmp_path, 10, 0.1 + 0.2)
    found = last_state(tmp_path)
    assert found is not None
    assert (found.name, found.steps, found.elapsed) == ("state-10", 10, 0.1 + 0.2)
    assert (found.folder / "weights").read_text() == "10"


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for steps in (5, 100, 20, 30):
        save(tmp_path, steps)
    assert names(tmp_path) == {"model", "state-30", "state-100"}


def test_a_state_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    whole = '{"steps": 5, "elapsed": 0}'
    for step, state in ((5, whole), (10, whole[:9]), (15, None), (20, '{"steps": 20}')):
        folder = tmp_path / f"state-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "state.json").write_text(state)
    found = last_state(tmp_path)
    assert found is not None
    assert found.name == "state-5"
    assert last_state(tmp_path / "state-5") is None
    save(tmp_path, 10)  # the run comes to this step again
    found = last_state(tmp_path)
    assert found is not None
    assert found.name == "state-10"


def test_a_state_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    with pytest.raises(OSError, match="full"), new_state(tmp_path, steps=15, elapsed=0) as scratch:
        (scratch / "weights").write_text("half")
        raise OSError("full")
    assert names(tmp_path) == {"state-5", "state-10"}


def test_left_overs_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    remove_left_overs(tmp_path / "missing")
    save(tmp_path, 5)
    for name in (".state-10-cut", "state-10", "model"):
        (tmp_path / name).mkdir()
    remove_left_overs(tmp_path)
    assert names(tmp_path) == {"state-5", "model"}
