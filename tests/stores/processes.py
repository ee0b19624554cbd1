"""Other processes that use a store, and what must be left of it when they are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from refrag_components.stores import open_store
from tests.stores.contract import key, make

ROOT = Path(__file__).parents[2]


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Runs Python code in another process, with the names of this module's imports."""
    prelude = "import sys\nfrom refrag_components.stores import SQLiteStore, open_store\n"
    prelude += "from tests.stores.contract import key, make\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def run(code: str, *arguments: object) -> None:
    """Runs Python code in another process to its end; it must succeed."""
    process = start(code, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def check_kill(url: str, *, batches_are_whole: bool = True, writes: int = 15) -> None:
    """Kills a writer twice; what it had stored must be there, and the store must go on."""
    for round_ in range(2):
        writer = start(
            """
            store, first = open_store(sys.argv[1]), int(sys.argv[2])
            for i in range(first, first + 100_000):
                store.mset([(key(i), make(i)), (f"twin{i}", make(i))])
                print(i, flush=True)
            """,
            url,
            round_ * 100_000,
        )
        assert writer.stdout is not None
        committed = [int(writer.stdout.readline()) for _ in range(writes)]
        writer.send_signal(signal.SIGKILL)
        committed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        with open_store(url) as store:
            assert store.mget([key(i) for i in committed]) == [make(i) for i in committed]
            keys = list(store.yield_keys())
            assert None not in store.mget(keys)
            if batches_are_whole:
                assert len(keys) == 2 * sum(name.startswith("twin") for name in keys)
            store.mset([("after", make(0))])
            store.mdelete(["after"])


def check_second_process(url: str) -> None:
    """Reads while another process writes; the reader sees whole values, ever more of them."""
    with open_store(url) as store:
        writer = start(
            """
            with open_store(sys.argv[1]) as store:
                for i in range(60):
                    store.mset([(key(i), make(i))])
            """,
            url,
        )
        keys, found = [key(i) for i in range(60)], 0
        while writer.poll() is None:
            values = store.mget(keys)
            assert all(value is None or value == make(i) for i, value in enumerate(values))
            now = sum(value is not None for value in values)
            assert now >= found
            found = now
        writer.communicate()
        assert writer.returncode == 0
        assert store.mget(keys) == [make(i) for i in range(60)]
