"""Indexing that is killed, as by ``kill -9``, at moments drawn from all function calls of a run.

``benchmarks/kill.py`` kills at 50 moments, ``test_killed.py`` at a tenth of that.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refrag_components.index import AddReport, RefragIndex
from refrag_components.stores import open_store
from refrag_components.vectors import passage_key
from tests.fake_model import FakeModel, check, texts

__all__ = ["Outcome", "Trial"]

_GRACE = 7200  # seconds; older chunk vectors that no passage came to need are forgotten


@dataclass(frozen=True)
class Outcome:
    """What one killed run left behind, and how it went on.

    Attributes:
        call: The function call at which it was killed.
        calls: Function calls of a whole run.
        kept: Chunk vectors that were stored at that moment.
        encoded: Passages that the next run had to encode.
        passages: Passages of the finished index.
    """

    call: int
    calls: int
    kept: int
    encoded: int
    passages: int


class Trial:
    """Two versions of a folder of documents, and indexes of it that are killed.

    Args:
        folder: An empty folder.
        other_store: Whether chunk vectors go to a database of their own.
    """

    def __init__(self, folder: Path, *, other_store: bool) -> None:
        self._folder = folder
        self._url = f"sqlite://{folder / 'chunks.sqlite'}" if other_store else None
        self._docs = folder / "docs"
        self._old = folder / "old"
        folder.mkdir(exist_ok=True)
        _write(self._docs, range(30), "first")
        self._finish(FakeModel())
        self._passages = [texts(self._open())]
        shutil.copytree(folder / "index", self._old / "index")
        if other_store:
            shutil.copy(folder / "chunks.sqlite", self._old)
        shutil.rmtree(self._docs)
        _write(self._docs, range(10, 45), "second")
        self._calls = {fresh: self._count_calls(fresh) for fresh in (True, False)}
        self._passages.append(texts(self._open()))

    def kill(self, rng: random.Random) -> Outcome:
        """Kills one run at a random moment and checks what is left, and that another finishes.

        Raises:
            AssertionError: If something is lost, doubled, or wrong.
        """
        fresh = rng.random() < 0.5
        call = rng.randrange(self._calls[fresh])
        self._begin(fresh)
        status = self._child(lambda: self._finish(FakeModel()), call)
        assert status in (-signal.SIGKILL, 0), status
        old, new = map(Counter, self._passages)
        kept = self._left(Counter() if fresh else old, new)
        model = FakeModel()
        self._finish(model)
        with self._open() as index:
            assert Counter(texts(index)) == new
            wanted = {passage_key(text, model.fingerprint): text for text in new}
            assert Counter(model.encoded) == Counter(
                text for key, text in wanted.items() if key not in kept
            )
        self._age()
        again = FakeModel()
        with self._open(again) as index:
            assert index.add_folder(self._docs) == AddReport(unchanged=35)
            check(index, again)
        assert again.encoded == []
        return Outcome(call, self._calls[fresh], len(kept), len(model.encoded), len(new))

    def _begin(self, fresh: bool) -> None:
        shutil.rmtree(self._folder / "index", ignore_errors=True)
        for path in self._folder.glob("chunks.sqlite*"):
            path.unlink()
        if not fresh:
            shutil.copytree(self._old / "index", self._folder / "index")
            for path in self._old.glob("chunks.sqlite"):
                shutil.copy(path, self._folder)

    def _left(self, old: Counter[str], new: Counter[str]) -> set[str]:
        """Keys of the chunk vectors that are there; all that is there is whole."""
        folder = self._folder / "index"
        if not (folder / "meta.json").exists():
            return set()  # killed before there was an index
        model = FakeModel()
        with self._open(model) as index:
            found = Counter(texts(index))
            assert found <= old | new
            assert max(found.values(), default=0) <= 1
            hits = [hit.text for hit in index.search("the", k=1000)]
            assert sorted(hits) == sorted(found)
            for text in found:
                assert index.store.mget([passage_key(text, model.fingerprint)]) == [
                    model.encode(text)
                ]
            return set(index.store.yield_keys())

    def _finish(self, model: FakeModel) -> None:
        with RefragIndex.create(
            self._folder / "index", model, passage_tokens=8, store=self._url
        ) as index:
            index.add_folder(self._docs, batch_size=4)

    def _open(self, model: FakeModel | None = None) -> RefragIndex:
        model = FakeModel() if model is None else model
        store = None if self._url is None else open_store(self._url)
        return RefragIndex.open(self._folder / "index", model, store=store)

    def _age(self) -> None:
        """As if what a killed run left behind were hours old."""
        connection = sqlite3.connect(self._folder / "index" / "store.sqlite")
        with connection:
            connection.execute("UPDATE awaited SET since = since - ?", (_GRACE,))
        connection.close()

    def _count_calls(self, fresh: bool) -> int:
        self._begin(fresh)
        read, write = os.pipe()

        def work() -> None:
            self._finish(FakeModel())
            os.write(write, str(counter.calls).encode())

        counter = _Counter(None)
        assert self._child(work, None, counter) == 0
        os.close(write)
        with os.fdopen(read) as pipe:
            return int(pipe.read())

    def _child(
        self, work: Callable[[], None], call: int | None, counter: _Counter | None = None
    ) -> int:
        """Exit status of a forked child that is killed at its so manieth call."""
        child = os.fork()
        if child == 0:
            try:
                counter = _Counter(call) if counter is None else counter
                threading.setprofile(counter)
                sys.setprofile(counter)
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class _Counter:
    """Counts the function calls of all threads, those of C libraries too, and kills at one."""

    def __init__(self, last: int | None) -> None:
        self.calls = 0
        self._last = last

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            if self.calls == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1


def _write(folder: Path, numbers: range, version: str) -> None:
    """Short documents, every fifth of which is long, some of them pages; all differ."""
    folder.mkdir(parents=True)
    for number in numbers:
        sentences = [f"The document {number} has in place {i} this." for i in range(12)]
        text = "\n\n".join(sentences) if number % 5 == 0 else f"The short document {number}."
        if number % 3 == 0:
            text += f"\n\nThe {version} version of {number}."
        page = number % 7 == 0
        body = "".join(f"<p>{part}</p>" for part in text.split("\n\n")) if page else text
        (folder / f"{number:02}{'.html' if page else '.txt'}").write_text(body)
