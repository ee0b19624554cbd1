"""A store by its URL."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from refrag_components.exceptions import StoreError
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.common.limits import Call
from refrag_components.stores.common.url import without_password

__all__ = ["STORES", "WITH_EXTRA", "open_store", "store_class"]

_BUILT_IN = ("memory", "sqlite")
_WRITTEN = {"postgres": "postgresql"}  # where others write the scheme in another way


def _stores() -> dict[str, str]:
    folder = Path(__file__).parents[1]
    modules = sorted(module.name for module in iter_modules([str(folder)]) if not module.ispkg)
    return {_WRITTEN.get(module, module): module for module in modules}


#: All stores, by the scheme of their URLs: modules of ``refrag_components.stores``.
STORES = _stores()

#: Those that need an extra, which is named like the module.
WITH_EXTRA = {scheme: module for scheme, module in STORES.items() if module not in _BUILT_IN}

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
        others = ", ".join(f"{name}:// [{extra}]" for name, extra in WITH_EXTRA.items())
        msg = (
            f"{_shown(scheme)} does not name a store; use a path, memory:, sqlite:/// or, with the "
            f'extra in brackets, as in pip install "refrag-components[qdrant]": {others}'
        )
        raise StoreError(msg)
    store = store_class(scheme)
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


def store_class(scheme: str) -> Any:
    """The class of the store whose URLs have a scheme, one of ``STORES``: it has ``from_url``.

    Raises:
        MissingExtraError: If the database's client is not installed.
    """
    module = import_module(f"refrag_components.stores.{STORES[scheme]}")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, BaseChunkStore)
        and value.__module__ == module.__name__
    )
    return found


def _shown(scheme: str) -> str:
    """The scheme, unless it is something else, which might hold a password."""
    return f"{scheme}://" if re.fullmatch(r"[\w+.-]+", scheme) else "the URL"
