"""Python in another process, for tests of what processes share."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def run_python(code: str, *arguments: object) -> None:
    """Runs code that knows ``sys``, ``key`` and ``make``; fails if it fails."""
    prelude = "import sys\nfrom tests.stores.contract import key, make\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=_ROOT,
    )
    assert done.returncode == 0, done.stderr
