"""Servers that accept a connection and never answer, and clients that never come back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from refrag_components.exceptions import StoreError
from refrag_components.index.store import store_name
from refrag_components.stores import MemoryStore, open_store
from refrag_components.stores.common import opening
from refrag_components.stores.common.rows import RemoteStore
from refrag_components.stores.common.url import without_password
from refrag_components.stores.postgres import PostgresStore
from refrag_components.vectors import ChunkVectors
from tests.stores.contract import make


class Hanging(RemoteStore):
    """Hangs in what it is told to."""

    def __init__(self, hangs: str, timeout: float) -> None:
        super().__init__("A database", "float16", timeout)
        self.release = threading.Event()
        self._hangs = hangs
        self.inner = MemoryStore()

    def _maybe(self, name: str) -> None:
        if name == self._hangs:
            self.release.wait()

    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        self._maybe("mget")
        return self.inner.mget(keys)

    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None:
        self._maybe("mset")
        self.inner.mset(pairs)

    def _mdelete(self, keys: Sequence[str]) -> None:
        self._maybe("mdelete")
        self.inner.mdelete(keys)

    def _yield_keys(self, prefix: str | None) -> Iterator[str]:
        yield from self.inner.yield_keys(prefix=prefix)
        self._maybe("yield_keys")


@pytest.mark.parametrize("hangs", ["mget", "mset", "mdelete", "yield_keys"])
def test_no_call_is_waited_for_without_end(hangs: str) -> None:
    store = Hanging(hangs, timeout=0.01)
    calls = {
        "mget": lambda: store.mget(["a"]),
        "mset": lambda: store.mset([("a", make(1))]),
        "mdelete": lambda: store.mdelete(["a"]),
        "yield_keys": lambda: list(store.yield_keys()),
    }
    for name, call in calls.items():
        if name == hangs:
            with pytest.raises(StoreError, match=r"A database did not answer in 0\.\d+ seconds"):
                call()
    store.release.set()


def test_what_a_client_raises_is_raised() -> None:
    store = Hanging("nothing", timeout=60)
    store.inner = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        store.mget(["a"])


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    [
        "chroma://127.0.0.1:{}/c?timeout=0.05",
        "milvus://127.0.0.1:{}/c?timeout=0.05",
        "postgresql://u@127.0.0.1:{}/d?timeout=0.05",
        "qdrant://127.0.0.1:{}/c?timeout=0.05",
        "weaviate://127.0.0.1:{}/C?timeout=0.05",
    ],
)
def test_a_server_that_never_answers_is_given_up(
    silent: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_OPENING", 2.0)
    with pytest.raises(StoreError) as caught:
        open_store(url.format(silent))
    assert f"127.0.0.1:{silent}" in str(caught.value) or "check the server" in str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", ""])
def test_a_time_limit_is_a_number_of_seconds(tmp_path: Path, value: str) -> None:
    with pytest.raises(StoreError, match=r"timeout|float"):
        open_store(f"qdrant://{tmp_path}/q?timeout={value}")


def test_a_time_limit_is_no_part_of_a_stores_name() -> None:
    url = "postgresql://u@host/d?table=t"
    assert store_name(f"{url}&timeout=9") == store_name(url) == url


# -- names and passwords ------------------------------------------------------------------------


def test_a_locked_table_is_given_up(postgres: str) -> None:
    import psycopg

    with PostgresStore(postgres) as store:
        store.mset([("a", make(1))])
        with psycopg.connect(postgres) as other:
            other.execute("LOCK TABLE refrag_chunk_vectors")
            store.timeout = 0.05
            with pytest.raises(StoreError, match=r"did not answer in 0\.05 seconds"):
                store.mget(["a"])
        store.timeout = 300
        assert store.mget(["a"])[0] in (make(1), None)


@pytest.mark.parametrize("name", ["x" * 64, "", "ü" * 32])
def test_names_that_postgresql_would_cut_are_refused(postgres: str, name: str) -> None:
    """Two tenants whose names agree in the first 63 bytes would share a table."""
    for options in ({"table": name}, {"schema": name}):
        with pytest.raises(StoreError, match="63"):
            PostgresStore(postgres, **options)
    with PostgresStore(postgres, table="ü" * 31 + "x") as store:
        store.mset([("a", make(1))])


@pytest.mark.parametrize(
    "text",
    [
        "host=localhost dbname=rag password=s3cret",
        "  dbname = rag  user=me password=s3cret",
        "PASSWORD=s3cret",
        "service=s3cret",
        "postgresql:user:s3cret@host",
        "qdrant:s3cret@host",
    ],
)
def test_a_connection_string_that_is_no_url_is_no_path(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="not as a URL") as caught:
        open_store(text)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:12?s3cret@host/d",
        "postgresql://me:1?s3=cret@host/d",
        "postgresql://me:?s3cret@host/d",
        "postgresql://me@x?s3cret@host/d",
        "qdrant://:9?s3cret@host/c",
        "qdrant://?s3cret@host/c",
    ],
)
def test_a_password_with_a_question_mark_is_never_shown(url: str) -> None:
    for use in (without_password, open_store, store_name):
        call: Any = use
        with pytest.raises(StoreError, match="%XX") as caught:
            call(url)
        assert "cret" not in str(caught.value)
