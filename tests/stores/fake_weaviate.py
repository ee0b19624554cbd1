"""A stand-in for the part of the Weaviate client that the store uses.

No package carries Weaviate's server, so nothing here proves that a server agrees. What it does
check: every call fits the signature of the installed client's own method, blobs are base64 and
come back only when asked for, ids are UUIDs, listings come in pages.
"""

from __future__ import annotations

import base64
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import wraps
from types import SimpleNamespace
from typing import Any

from weaviate.classes.config import DataType
from weaviate.collections import Collection
from weaviate.collections.collections import _Collections
from weaviate.collections.config.executor import _ConfigCollectionExecutor
from weaviate.collections.data.executor import _DataCollectionExecutor
from weaviate.collections.queries.fetch_objects_by_ids.query.executor import (
    _FetchObjectsByIDsQueryExecutor,
)


def like(real: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Refuses arguments that the client's own method would not take."""
    signature = inspect.signature(real)

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def checked(*args: Any, **kwargs: Any) -> Any:
            signature.bind(*args, **kwargs)
            return method(*args, **kwargs)

        return checked

    return decorate


class FakeCollection:
    """Objects by id; ``query``, ``data`` and ``config`` are the object itself."""

    def __init__(self, properties: list[Any]) -> None:
        self.objects: dict[uuid.UUID, dict[str, str]] = {}
        self.refused: str | None = None
        self._properties = properties
        self._lock = threading.Lock()
        self.query = self.data = self.config = self

    @like(_ConfigCollectionExecutor.get)
    def get(self, simple: bool = False) -> Any:
        return SimpleNamespace(properties=self._properties)

    @like(_FetchObjectsByIDsQueryExecutor.fetch_objects_by_ids)
    def fetch_objects_by_ids(self, ids: Any, *, limit: int, return_properties: list[str]) -> Any:
        with self._lock:
            found = [self._object(i, return_properties) for i in ids if i in self.objects]
        return SimpleNamespace(objects=found[:limit])

    @like(_DataCollectionExecutor.insert_many)
    def insert_many(self, objects: list[Any]) -> Any:
        if self.refused:
            return SimpleNamespace(
                has_errors=True, errors={0: SimpleNamespace(message=self.refused)}
            )
        blobs = [p.name for p in self._properties if p.dataType == DataType.BLOB]
        with self._lock:
            for item in objects:
                assert set(item.properties) == {p.name for p in self._properties}
                for name in blobs:
                    base64.b64decode(item.properties[name], validate=True)
                self.objects[uuid.UUID(str(item.uuid))] = dict(item.properties)
        return SimpleNamespace(has_errors=False, errors={})

    @like(_DataCollectionExecutor.delete_many)
    def delete_many(self, where: Any) -> Any:
        assert (where.target, where.operator.value) == ("_id", "ContainsAny")
        with self._lock:
            for name in where.value:
                self.objects.pop(uuid.UUID(str(name)), None)
        return SimpleNamespace(failed=0)

    @like(Collection.iterator)
    def iterator(self, *, return_properties: list[str], cache_size: int) -> Iterator[Any]:
        after = uuid.UUID(int=0)
        while True:
            with self._lock:
                page = sorted(i for i in self.objects if i > after)[:cache_size]
                found = [self._object(i, return_properties) for i in page]
            if not found:
                return
            yield from found
            after = page[-1]

    def _object(self, name: uuid.UUID, properties: list[str]) -> Any:
        kept = {key: self.objects[name][key] for key in properties}
        return SimpleNamespace(uuid=name, properties=kept)


class FakeWeaviate:
    """A client with its database."""

    def __init__(self) -> None:
        self.made: dict[str, FakeCollection] = {}
        self.closed = False
        self.collections = self

    @like(_Collections.exists)
    def exists(self, name: str) -> bool:
        return name in self.made

    @like(_Collections.create)
    def create(self, name: str, *, properties: list[Any], vector_config: Any) -> None:
        assert name[0].isupper()
        assert name not in self.made
        self.made[name] = FakeCollection(properties)

    @like(_Collections.use)
    def use(self, name: str) -> FakeCollection:
        return self.made[name]

    def close(self) -> None:
        self.closed = True
