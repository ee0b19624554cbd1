"""A tenth of what ``benchmarks/soak.py`` asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from refrag_components.generation import store_guard
from tests.integrations.soak import ROUNDS, Soak

_REQUESTS = 1000


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of os.fork next to threads
def test_a_thousand_requests_while_everything_goes_wrong(
    roomy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_guard, "_FIRST_PAUSE", 0.05)  # no test waits for seconds
    monkeypatch.setattr(store_guard, "_LONGEST_PAUSE", 1.0)
    soak = Soak(str(roomy_folder / "tiny"), tmp_path, _REQUESTS)
    figures = soak.run()
    assert figures.wrong_layouts == []
    assert figures.wrong_answers == []
    assert figures.failures == []
    assert figures.answered + figures.cancelled == _REQUESTS
    assert figures.cancelled > 0
    assert figures.children == [0] * ROUNDS
    assert soak.comes_back(60.0)
    assert soak.strangers() == set()
    # The first rounds fill caches; from then on nothing is kept of a request.
    assert figures.objects[-1] < 1.02 * figures.objects[3]
    # Not what is resident: pages that 64 threads have freed go back to the system when glibc likes.
    assert not figures.allocated or figures.allocated[-1] < figures.allocated[3] + 48
    assert figures.open_files[-1] <= figures.open_files[0] + 2
    assert figures.threads[-1] <= figures.threads[0] + 2
    soak.close()
