"""Stored rows: chunk vectors as bytes, or text, that are bound to their key."""

from __future__ import annotations

import base64
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any

from refrag_components.exceptions import CorruptVectorsError, StoreError
from refrag_components.stores.common.base import BaseChunkStore
from refrag_components.stores.common.limits import Call, seconds
from refrag_components.vectors import ChunkVectors, Codec, codec_named

__all__ = [
    "RemoteStore",
    "RowStore",
    "keys_in_order",
    "pack_row",
    "pack_text",
    "unpack_row",
    "unpack_text",
]

logger = logging.getLogger(__name__)

_LONGER = 12  # a batch is much more to send than to look up, and databases build indexes
_KEYS_AT_ONCE = 1000


def pack_row(key: str, value: ChunkVectors, codec: Codec) -> bytes:
    """A value as bytes that cannot be taken for another key's row.

    Raises:
        InvalidVectorsError: If the value does not fit the codec.
    """
    return value.to_bytes(codec) + key.encode()


def unpack_row(key: str, data: bytes) -> ChunkVectors:
    """Reads what ``pack_row`` wrote under this key.

    Raises:
        CorruptVectorsError: If the bytes are damaged or another key's.
    """
    name = key.encode()
    if not data.endswith(name):
        raise CorruptVectorsError("it does not end with its key")
    return ChunkVectors.from_bytes(memoryview(data)[: len(data) - len(name)])


def pack_text(key: str, value: ChunkVectors, codec: Codec) -> str:
    """``pack_row`` in base64, for databases that cannot store bytes.

    Raises:
        InvalidVectorsError: If the value does not fit the codec.
    """
    return base64.b64encode(pack_row(key, value, codec)).decode()


def unpack_text(key: str, *parts: Any) -> ChunkVectors:
    """Reads what ``pack_text`` wrote under this key, in one or more parts.

    Raises:
        CorruptVectorsError: If the parts are damaged, another key's or not text.
    """
    try:
        data = base64.b64decode("".join(parts), validate=True)
    except (TypeError, ValueError) as error:
        raise CorruptVectorsError("it holds no value, or one that cannot be decoded") from error
    return unpack_row(key, data)


def keys_in_order(
    fetch: Callable[[str, str, int], list[str]], prefix: str, page_size: int
) -> Iterator[str]:
    """Yields the keys that begin with a prefix, in ascending order, page by page.

    Args:
        fetch: Called with a comparison, ">=" or ">", another key and a number; returns that many
            keys, the first in order for which the comparison holds.
        prefix: What the keys begin with.
        page_size: Keys per page.
    """
    after, comparison = prefix, ">="
    while True:
        page = fetch(comparison, after, page_size)
        yield from takewhile(lambda key: key.startswith(prefix), page)
        if len(page) < page_size or not page[-1].startswith(prefix):
            return
        after, comparison = page[-1], ">"


class RowStore(BaseChunkStore):
    """A store in a database, where rows can be damaged; such a row counts as a miss.

    Args:
        label: Names the database in messages; holds no password.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.

    Attributes:
        corrupt_rows: Damaged rows met so far.
    """

    def __init__(self, label: str, codec: Codec) -> None:
        self.label = label
        self.codec: Codec = codec_named(codec).name
        self.corrupt_rows = 0

    def _read(
        self, key: str, parse: Callable[..., ChunkVectors], *parts: Any
    ) -> ChunkVectors | None:
        """What ``parse`` makes of a key and its row; None, with a warning, if that is damaged."""
        try:
            return parse(key, *parts)
        except CorruptVectorsError as error:
            self.corrupt_rows += 1
            logger.warning("%s: row %s is damaged: %s", self.label, key, error)
            return None


class RemoteStore(RowStore):
    """A store in a database that others run: it may accept a call and never answer.

    No call is waited for without end, whoever made the client. A client is called from threads of
    the store's own.

    Args:
        label: Names the database in messages; holds no password.
        codec: How vectors are stored; rows that are already stored are read whatever their codec.
        timeout: Seconds that reading is waited for; everything else may take twelve times as long.
    """

    def __init__(self, label: str, codec: Codec, timeout: float) -> None:
        super().__init__(label, codec)
        self.timeout = seconds(timeout)
        self._process = os.getpid()  # two processes would talk over one connection

    def mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]:
        """Returns one entry per key, in order; None for unknown keys and damaged rows.

        Raises:
            StoreError: If the database cannot be read, or not in time.
        """
        values: list[ChunkVectors | None] = self._waited(lambda: self._mget(keys), self.timeout)
        return values

    def mset(self, pairs: Iterable[tuple[str, ChunkVectors]]) -> None:
        """Stores values; a key's earlier value is replaced.

        Raises:
            InvalidVectorsError: If a value does not fit the codec; nothing is stored then.
            StoreError: If the database refuses, or does not answer in time.
        """
        values = list(pairs)
        self._waited(lambda: self._mset(values))

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forgets keys; unknown keys are ignored.

        Raises:
            StoreError: If the database refuses, or does not answer in time.
        """
        self._waited(lambda: self._mdelete(keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yields the stored keys that begin with ``prefix``, page by page."""
        keys = self._yield_keys(prefix)
        while page := self._waited(lambda: list(islice(keys, _KEYS_AT_ONCE))):
            yield from page

    @abstractmethod
    def _mget(self, keys: Sequence[str]) -> list[ChunkVectors | None]: ...

    @abstractmethod
    def _mset(self, pairs: Sequence[tuple[str, ChunkVectors]]) -> None: ...

    @abstractmethod
    def _mdelete(self, keys: Sequence[str]) -> None: ...

    @abstractmethod
    def _yield_keys(self, prefix: str | None) -> Iterator[str]: ...

    def _waited(self, work: Callable[[], Any], limit: float | None = None) -> Any:
        """What a call of the database returns, or raises.

        Args:
            work: The call.
            limit: Seconds to wait for it; twelve times ``timeout`` if None.

        Raises:
            StoreError: If it takes longer.
        """
        if self._process != os.getpid():
            msg = f"{self.label} was opened before this process was forked; open it again here"
            raise StoreError(msg)
        limit = _LONGER * self.timeout if limit is None else limit
        call = Call(work)
        call.start()
        call.join(limit)
        if call.is_alive():
            msg = f"{self.label} did not answer in {limit:g} seconds"
            raise StoreError(f"{msg}; check the server, or set timeout")
        if call.error is not None:
            raise call.error
        return call.result
