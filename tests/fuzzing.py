"""How many cases the tests try whose inputs make no sense.

    REFRAG_FUZZ=full python -m pytest tests/test_fuzz.py tests/test_fuzz_files.py \\
        tests/test_fuzz_inputs.py tests/modeling/test_damaged_checkpoints.py
"""

from __future__ import annotations

import os

__all__ = ["cases"]


def cases(few: int, full: int) -> int:
    """So many of them: ``few`` unless the environment asks for all."""
    return full if os.environ.get("REFRAG_FUZZ") == "full" else few
