"""Stores whose files are altered and cut."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from refrag_components.exceptions import StoreError
from refrag_components.stores import open_store
from tests.stores.contract import key, make


def check_altered_files(url: str, folder: Path, *, rounds: int) -> None:
    """Damages files of the store in a folder; it must never give a wrong value."""
    values = {key(i): make(i, n_tokens=200, width=64) for i in range(40)}
    pairs = list(values.items())
    for first in range(0, 40, 10):
        with open_store(url) as store:
            store.mset(pairs[first : first + 10])
    whole = folder.with_name("whole")
    folder.rename(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    generator = random.Random(0)
    outcomes = {"right": 0, "miss": 0, "error": 0}
    for _ in range(rounds):
        shutil.copytree(whole, folder)
        file = folder / generator.choice(files)
        altered = bytearray(file.read_bytes())
        for _ in range(generator.choice([1, 20])):
            altered[generator.randrange(len(altered))] = generator.randrange(256)
        file.write_bytes(altered[: generator.choice([len(altered), len(altered) // 2])])
        try:
            with open_store(url) as store:
                read = store.mget(list(values))
        except StoreError:
            outcomes["error"] += 1
        else:
            for found, value in zip(read, values.values(), strict=True):
                assert found is None or found == value
            outcomes["miss" if None in read else "right"] += 1
        shutil.rmtree(folder)
    assert min(outcomes.values()) > 0
