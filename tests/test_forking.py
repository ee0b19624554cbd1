"""Forked children: gunicorn --preload, multiprocessing, datasets.map. None of them hangs."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from refrag_components.exceptions import StoreError
from refrag_components.forking import OwnLock, _gate, computing
from refrag_components.generation.store_guard import StoreGuard
from refrag_components.index import RefragIndex
from refrag_components.stores import MemoryStore
from refrag_components.stores.lancedb import LanceDBStore
from refrag_components.text.extraction_process import ExtractionProcess
from tests.fake_model import FakeModel
from tests.stores.common.test_limits import Hanging
from tests.stores.contract import make

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

_PATIENCE = 300  # seconds, for a test that fails

ROOT = Path(__file__).parents[1]
SERVER = """
import os, signal, sys, threading
import torch
from refrag_components.engines import SamplingParams
from refrag_components.generation.requests import Request
from refrag_components.generation.shared_checkpoints import load_checkpoint
from refrag_components.prompts.parts import PassagePart, TextPart
from tests.tiny import TEXT

torch.set_num_threads(4)
torch.ones(600, 600) @ torch.ones(600, 600)  # starts PyTorch's threads
checkpoint = load_checkpoint(sys.argv[1])

def answer(number):
    parts = [TextPart("Read:"), PassagePart(f"{TEXT[number % 5]} {number}"), TextPart("When?")]
    params = SamplingParams(max_tokens=2)
    (answer,) = checkpoint.generator.generate([Request(parts, "When was it dug?")], params)
    return answer.text

expected = answer(1)
stop = threading.Event()

def serve(number):
    while not stop.is_set():
        answer(number)
        number += 3

threads = [threading.Thread(target=serve, args=(i,)) for i in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(6):
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        torch.ones(600, 600) @ torch.ones(600, 600)
        load_checkpoint(sys.argv[1])
        os._exit(0 if answer(1) == expected else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
print(codes)
"""


def in_child(work: Callable[[], object]) -> int:
    """Runs ``work`` in a forked child, which is killed if it hangs; returns its exit status."""
    child = os.fork()
    if child == 0:
        signal.alarm(_PATIENCE)
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def elsewhere() -> Iterator[Callable[[OwnLock], None]]:
    """Has another thread hold locks until the test is over."""
    release = threading.Event()
    threads = []

    def hold(lock: OwnLock) -> None:
        held = threading.Event()

        def work() -> None:
            with lock:
                held.set()
                release.wait()

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        held.wait()

    yield hold
    release.set()
    for thread in threads:
        thread.join()


def test_a_server_that_loaded_its_model_before_it_forked(tiny_folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "4"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVER, str(tiny_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert result.stdout.strip() == "[0, 0, 0, 0, 0, 0]", result.stderr


def test_an_index_with_a_second_database_and_a_process_that_forks(
    tmp_path: Path, model: FakeModel
) -> None:
    """The one thread holds the index and waits for the store, the fork the other way round."""
    url = f"sqlite://{tmp_path / 'store.sqlite'}"
    done, forked, ended = threading.Event(), threading.Event(), threading.Event()
    with RefragIndex.create(tmp_path / "index", model, passage_tokens=8, store=url) as index:

        def work() -> None:
            try:
                for number in count():
                    if number >= 60 and forked.is_set():
                        break
                    index.add_texts([f"The short document number {number}."])
                    index.remove(index._catalog.all_paths()[1:])
                ended.set()
            finally:
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        forks = 0
        while not done.is_set():
            assert in_child(lambda: None) == 0
            forks += 1
            if forks > 1:
                forked.set()
        thread.join()
        assert ended.is_set()
        assert index.search("document") != []
        assert in_child(lambda: index.search("document")) == 0


def test_a_lock_is_free_in_a_child_whoever_held_it(elsewhere: Callable[[OwnLock], None]) -> None:
    lock = OwnLock()
    elsewhere(lock)

    def work() -> None:
        assert lock.inherited
        with lock:
            assert not lock.inherited

    assert in_child(work) == 0
    assert not lock.inherited


def test_threads_of_a_child_that_come_at_the_same_time() -> None:
    lock = OwnLock()

    def work() -> None:
        began, came = threading.Event(), threading.Barrier(2)
        times: list[bool] = []

        def begin() -> None:
            times.append(lock.inherited)
            began.set()
            with suppress(threading.BrokenBarrierError):
                came.wait(0.5)  # nobody else gets here, nor past the lock

        def second() -> None:
            began.wait(_PATIENCE)
            lock.begin_again(begin)
            times.append(lock.inherited)

        threads = [threading.Thread(target=lock.begin_again, args=(begin,))]
        threads.append(threading.Thread(target=second))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
        assert times == [True, False]

    assert in_child(work) == 0


def test_a_child_that_is_forked_inside_a_block_leaves_it(tmp_path: Path) -> None:
    lock = OwnLock()
    with lock:
        child = os.fork()
        if child == 0:
            signal.alarm(_PATIENCE)
    if child == 0:
        with lock:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with lock:
        pass


def test_a_fork_waits_for_what_is_computed() -> None:
    """A lock inside PyTorch's libraries would never be free in the child."""
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    @computing()
    def compute() -> None:
        inside.set()
        leave.wait()
        with computing():  # while the fork waits
            order.append("computed")

    def fork() -> None:
        assert in_child(lambda: order.append("in the child")) == 0
        order.append("forked")

    def compute_later() -> None:
        with computing():
            order.append("later")

    threads = [threading.Thread(target=compute)]
    threads[0].start()
    inside.wait()
    for work in (fork, compute_later):
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        while not _gate.forking:
            time.sleep(0.001)
    leave.set()
    for thread in threads:
        thread.join()
    assert order[0] == "computed"
    assert sorted(order) == ["computed", "forked", "later"]


@computing()
def test_who_computes_may_fork() -> None:
    def work() -> None:
        with computing():
            pass

    assert in_child(work) == 0
    work()


def test_what_is_in_memory_is_there_in_a_child(elsewhere: Callable[[OwnLock], None]) -> None:
    store = MemoryStore()
    store.mset([("a", make(1))])
    elsewhere(store._lock)

    def work() -> None:
        assert store.mget(["a"]) == [make(1)]
        store.mset([("b", make(2))])

    assert in_child(work) == 0


def test_a_guard_begins_again_in_a_child() -> None:
    store, guard = Hanging("mset", timeout=60), StoreGuard()
    guard.write(store, [("a", make(1))])

    def work() -> None:
        assert guard.flush()
        with guard._lock:
            assert guard._waiting == {}

    assert in_child(work) == 0
    store.release.set()
    assert guard.flush()


def test_connections_are_not_shared_with_a_child(tmp_path: Path) -> None:
    remote = Hanging("nothing", timeout=60)
    import lancedb

    lance = LanceDBStore(lancedb.connect(str(tmp_path)))
    lance.mset([("a", make(1))])

    def work() -> None:
        for store in (remote, lance):
            with pytest.raises(StoreError, match="forked; open it again"):
                store.mget(["a"])

    assert in_child(work) == 0
    assert lance.mget(["a"]) == [make(1)]


def test_a_child_has_its_own_reader_of_files() -> None:
    process = ExtractionProcess()
    assert process.extract(b"<p>one", ".html").text == "one"

    def work() -> None:
        assert process.extract(b"<p>two", ".html").text == "two"
        process.close()

    assert in_child(work) == 0
    assert process.extract(b"<p>three", ".html").text == "three"
    process.close()


# -- copies -------------------------------------------------------------------------------------


def test_a_store_in_memory_can_be_copied_and_pickled() -> None:
    store = MemoryStore(max_bytes=10_000)
    store.mset([("a", make(1)), ("b", make(2))])
    for copied in (copy.copy(store), copy.deepcopy(store), copy.deepcopy({"x": [store]})["x"][0]):
        copied.mset([("c", make(3))])
        assert store.mget(["c"]) == [make(3)]
        store.mdelete(["c"])
    other = pickle.loads(pickle.dumps(store))
    assert other.mget(["a", "b"]) == [make(1), make(2)]
    assert (other.max_bytes, other.nbytes, len(other)) == (10_000, store.nbytes, 2)
    other.mset([("d", make(4))])
    assert store.mget(["d"]) == [None]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()
