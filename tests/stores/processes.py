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
    prelude = "import sys\nfrom refrag_components.stores import open_store\n"
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


def check_kill(
    url: str, *, batches_are_whole: bool = True, rounds: int = 2, writes: int = 15
) -> None:
    """Kills writers; what they had stored must be there, and the store must go on."""
    for round_ in range(rounds):
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


def check_second_process(url: str, *, writes: int = 60) -> None:
    """Reads while another process writes; the reader sees whole values, ever more of them."""
    with open_store(url) as store:
        writer = start(
            """
            with open_store(sys.argv[1]) as store:
                for i in range(int(sys.argv[2])):
                    store.mset([(key(i), make(i))])
            """,
            url,
            writes,
        )
        keys, found = [key(i) for i in range(writes)], 0
        while writer.poll() is None:
            values = store.mget(keys)
            assert all(value is None or value == make(i) for i, value in enumerate(values))
            now = sum(value is not None for value in values)
            assert now >= found
            found = now
        writer.communicate()
        assert writer.returncode == 0
        assert store.mget(keys) == [make(i) for i in range(writes)]


def check_several_writers(url: str, *, processes: int, writes: int) -> None:
    """Several processes make one store and write to it at once, partly the same rows."""
    code = """
        first, writes = int(sys.argv[2]), int(sys.argv[3])
        with open_store(sys.argv[1]) as store:
            for i in range(first, first + writes):
                store.mset([("z", make(0)), (key(i), make(i)), ("a", make(1))])
    """
    writers = [start(code, url, writes * n, writes) for n in range(processes)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with open_store(url) as store:
        numbers = range(processes * writes)
        assert store.mget([key(i) for i in numbers]) == [make(i) for i in numbers]
        assert store.mget(["a", "z"]) == [make(1), make(0)]
