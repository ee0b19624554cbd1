"""Indexes that are killed, or used by several threads and processes at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from refrag_components.index import AddReport, RefragIndex
from refrag_components.stores import SQLiteStore
from refrag_components.text.documents import Document
from tests.fake_model import FakeModel, check, texts

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from refrag_components.index import RefragIndex
from tests.fake_model import FakeModel
model = FakeModel(seconds=0.001)
with RefragIndex.create(sys.argv[1], model, passage_tokens=8) as index:
    show = lambda report: print(report.passages, flush=True)
    index.add_folder(sys.argv[2], batch_size=1, progress=show)
print("encoded", len(model.encoded), flush=True)
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Files with 170 passages, 60 of them in one file."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(110):
        (folder / f"{i:03}.txt").write_text(f"The short document number {i}.")
    paragraphs = (f"The long document has in place {i} this." for i in range(60))
    (folder / "050-long.txt").write_text("\n\n".join(paragraphs))
    return folder


@pytest.fixture
def expected(tmp_path: Path, docs: Path) -> list[str]:
    with RefragIndex.create(tmp_path / "other", FakeModel(), passage_tokens=8) as index:
        index.add_folder(docs)
        return texts(index)


def start(folder: Path, docs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), str(docs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_indexer_continues_where_it_stopped(
    tmp_path: Path, docs: Path, expected: list[str]
) -> None:
    folder = tmp_path / "index"
    for number, passages in enumerate((0, 24, 40, 24, 16)):  # encoded before the kill
        worker = start(folder, docs)
        assert worker.stdout is not None
        if passages:
            next((line for line in worker.stdout if int(line.split()[-1]) >= passages), None)
        time.sleep(0.003 * number)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.wait() in (-signal.SIGKILL, 0)  # where the machine is busy, it was done
    with SQLiteStore(folder / "store.sqlite") as store:
        kept = len(list(store.yield_keys()))
    assert kept >= 40  # one of them has said so
    worker = start(folder, docs)
    output, _ = worker.communicate()
    assert worker.returncode == 0
    assert int(output.split()[-1]) == len(expected) - kept  # encoded by the last one
    with RefragIndex.open(folder, FakeModel()) as index:
        assert texts(index) == expected
        check(index, FakeModel())
        assert index.add_folder(docs) == AddReport(unchanged=111)


def test_two_indexers_at_once_add_nothing_twice(
    tmp_path: Path, docs: Path, expected: list[str]
) -> None:
    workers = [start(tmp_path / "index", docs) for _ in range(2)]
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    with RefragIndex.open(tmp_path / "index", FakeModel()) as index:
        assert texts(index) == expected
        check(index, FakeModel())


def test_searches_while_another_process_adds(
    tmp_path: Path, docs: Path, expected: list[str]
) -> None:
    with RefragIndex.create(tmp_path / "index", FakeModel(), passage_tokens=8) as index:
        index.add([Document("first", "Rain fell.")])
        worker = start(index.folder, docs)
        found = 0
        while worker.poll() is None:
            assert index.search("rain fell", k=1)[0].text == "Rain fell."
            hits = index.search("document", k=500)
            assert {hit.text for hit in hits} <= {*expected, "Rain fell."}
            assert len(hits) >= found
            found = len(hits)
            time.sleep(0.01)
        worker.communicate()
        assert worker.returncode == 0
        check(index, FakeModel())
        assert len(texts(index)) == len(expected) + 1


def test_an_open_index_sees_what_another_adds_and_removes(tmp_path: Path) -> None:
    model = FakeModel()
    with (
        RefragIndex.create(tmp_path / "index", model) as index,
        RefragIndex.open(tmp_path / "index", model) as other,
    ):
        index.add([Document("a", "Rain fell."), Document("b", "Hail fell.")])
        assert [hit.text for hit in other.search("rain fell")] == ["Rain fell.", "Hail fell."]
        index.remove(["a"])
        assert [hit.text for hit in other.search("rain fell")] == ["Hail fell."]
        other.add([Document("a", "Snow fell.")])
        assert [hit.text for hit in index.search("snow fell")] == ["Snow fell.", "Hail fell."]
        check(index, model)


def test_searches_while_another_thread_adds(tmp_path: Path) -> None:
    with RefragIndex.create(tmp_path / "index", FakeModel()) as index:
        index.add([Document("first", "Rain fell.")])

        def add() -> None:
            documents = (Document(str(i), f"Text number {i}.") for i in range(100))
            index.add(documents, batch_size=1)

        thread = threading.Thread(target=add)
        thread.start()
        while thread.is_alive():
            assert index.search("rain fell", k=1)[0].text == "Rain fell."
        thread.join()
        check(index, FakeModel())
