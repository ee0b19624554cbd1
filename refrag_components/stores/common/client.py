"""What stores that speak to their database through its client have in common."""

from __future__ import annotations

import hashlib
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from refrag_components.exceptions import StoreError
from refrag_components.stores.common.rows import RemoteStore
from refrag_components.vectors import Codec

__all__ = ["ClientStore", "client_errors", "key_id", "pages"]

_ROWS_PER_REQUEST = 64  # some 8 MB as Qdrant's JSON; its server refuses more than 32 MB


class _Closable(Protocol):
    def close(self) -> None: ...


_Client = TypeVar("_Client", bound=_Closable)
_Item = TypeVar("_Item")


class ClientStore(RemoteStore, Generic[_Client]):
    """A store in a collection of a database, with the user's client or its own.

    Args:
        client: The client; the user's, unless ``_owns_client`` is set.
        collection: The collection, created if missing; the class's default if None.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for, see ``RemoteStore``.
    """

    _database: ClassVar[str]  # its name in messages
    _default_collection: ClassVar[str] = "refrag_chunk_vectors"
    _advice: ClassVar[str]  # what to do about errors of the client

    def __init__(
        self,
        client: _Client,
        *,
        collection: str | None = None,
        codec: Codec = "float16",
        timeout: float = 5.0,
    ) -> None:
        self.collection = collection or self._default_collection
        # The label names the database in messages; it holds no password.
        super().__init__(f"{self._database} collection {self.collection}", codec, timeout)
        self.client = client
        self._owns_client = False
        self._closed = False
        self._waited(self._open)

    @abstractmethod
    def _open(self) -> None:
        """Looks at the collection; creates it, unless that is left to the first value.

        Raises:
            StoreError: If it holds something else.
        """

    @classmethod
    def _owning(cls, client: _Client, **options: Any) -> Self:
        """A store that closes its client, immediately if the store itself cannot be made."""
        try:
            store = cls(client, **options)
        except BaseException:
            client.close()
            raise
        store._owns_client = True
        return store

    def close(self) -> None:
        """Closes a client that was made here, not one that was passed."""
        if self._owns_client and not self._closed:
            self._closed = True
            self.client.close()

    def _errors(self) -> AbstractContextManager[None]:
        if self._closed:
            raise StoreError(f"{self.label} is closed; open it again")
        return client_errors(self.label, self._advice)


@contextmanager
def client_errors(label: str, advice: str) -> Iterator[None]:
    """Turns the errors of a client, which are of many types, into ours.

    Raises:
        StoreError: If the block raises; the message begins with the label and says what to do.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{label}: {error}; {advice}") from error


def key_id(key: str) -> uuid.UUID:
    """A hash of a key, for databases that do not take any text as an id."""
    return uuid.UUID(bytes=hashlib.blake2b(key.encode(), digest_size=16).digest())


def pages(items: Iterable[_Item], size: int = _ROWS_PER_REQUEST) -> Iterator[list[_Item]]:
    """Yields items in lists of at most ``size``, which each fit one request."""
    remaining = iter(items)
    while page := list(islice(remaining, size)):
        yield page
