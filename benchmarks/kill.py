"""Indexing killed, as by kill -9, at 50 random moments.

    python benchmarks/kill.py [--moments 50]

A moment is a function call, of all those of a run. Half of the runs begin with nothing, half with
an index of an earlier version of the folder; half keep chunk vectors in a database of their own.
After each kill, what is there has to be whole, and another run has to finish without encoding again
what was stored. Raises if anything is lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import warnings
from pathlib import Path

from tests.index.killing import Outcome, Trial


def main() -> None:
    """Kills and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork next to threads
    rng = random.Random(arguments.seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        trials = [
            Trial(Path(folder) / str(other_store), other_store=other_store)
            for other_store in (False, True)
        ]
        for number in range(arguments.moments):
            outcome = trials[number % 2].kill(rng)
            outcomes.append(outcome)
            print(
                f"killed at call {outcome.call:,} of {outcome.calls:,}: {outcome.kept} of "
                f"{outcome.passages} passages stored, {outcome.encoded} encoded after"
            )
    print(f"{len(outcomes)} kills: nothing lost, nothing doubled, nothing encoded twice")


if __name__ == "__main__":
    main()
