"""A store by its URL."""

from __future__ import annotations

import re
from importlib import import_module

from refrag_components.exceptions import StoreError
from refrag_components.stores.base import BaseChunkStore
from refrag_components.stores.limits import Call
from refrag_components.stores.url import without_password

__all__ = ["STORES", "WITH_EXTRA", "open_store"]

_BUILT_IN = {"memory": ("memory", "MemoryStore"), "sqlite": ("sqlite", "SQLiteStore")}

#: Stores that need an extra, by the scheme of their URLs: the module, named like the extra, and the
#: class in it.
WITH_EXTRA = {
    "chroma": ("chroma", "ChromaStore"),
    "lancedb": ("lancedb", "LanceDBStore"),
    "milvus": ("milvus", "MilvusStore"),
    "postgresql": ("postgres", "PostgresStore"),
    "qdrant": ("qdrant", "QdrantStore"),
    "weaviate": ("weaviate", "WeaviateStore"),
}

#: All stores, likewise.
STORES = _BUILT_IN | WITH_EXTRA

_OPENING = 60.0  # seconds; a server may accept a connection and never answer
_LIBPQ = re.compile(
    r"\s*(dbname|host|hostaddr|passfile|password|port|service|sslmode|user)\s*=", re.IGNORECASE
)


def open_store(url: str) -> BaseChunkStore:
    """Opens the store that a URL names.

    Args:
        url: A path (SQLite), "memory:", or a URL: "sqlite:///path", "lancedb:///path",
            "qdrant:///path", "qdrant://host:6333/collection", "postgresql://user@host/database"
            and whatever else the classes' ``from_url`` document. Options follow a "?". A password
            may be left out where the class reads it from an environment variable.

    Raises:
        MissingExtraError: If the database's client is not installed.
        StoreError: If there is no such store or option, or if it cannot be opened.
    """
    if "://" not in url and (_LIBPQ.match(url) or url.partition(":")[0] in WITH_EXTRA):
        msg = (
            "this names a server, but not as a URL, and would be taken for a file; write "
            "postgresql://user@host/database, or scheme://host:port/collection"
        )
        raise StoreError(msg)
    scheme = "memory" if url == "memory:" else url.partition("://")[0] if "://" in url else "sqlite"
    if scheme not in STORES:
        others = ", ".join(f"{name}:// [{extra}]" for name, (extra, _) in WITH_EXTRA.items())
        msg = (
            f"{_shown(scheme)} does not name a store; use a path, memory:, sqlite:/// or, with the "
            f'extra in brackets, as in pip install "refrag-components[qdrant]": {others}'
        )
        raise StoreError(msg)
    module, name = STORES[scheme]
    store = getattr(import_module(f"refrag_components.stores.{module}"), name)
    call = Call(lambda: store.from_url(url))
    call.start()
    call.join(_OPENING)
    try:
        if call.is_alive():
            raise StoreError(f"{without_password(url)} did not answer in {_OPENING:g} seconds")
        if call.error is not None:
            raise call.error
        opened: BaseChunkStore = call.result
        return opened
    except StoreError:
        raise
    except (OSError, ValueError) as error:  # an option that is wrong, or a path that cannot be
        raise StoreError(f"{without_password(url)}: {error}") from error


def _shown(scheme: str) -> str:
    """The scheme, unless it is something else, which might hold a password."""
    return f"{scheme}://" if re.fullmatch(r"[\w+.-]+", scheme) else "the URL"
