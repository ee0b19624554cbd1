"""Weaviate's HTTP and gRPC interfaces, as far as records need them, over objects in memory.

No package brings a Weaviate server. What the client sends and reads is Weaviate's own protocol: the
messages are those that the client brings. Requests are read and refused as the source of Weaviate
1.40 (before its release) does it: names of collections and tenants, settings of the vector index,
base64 of blobs, tenants that are unknown or not named, widths of vectors, blobs that come only when
they are asked for, null for properties that an object lacks. All vectors are compared; there is no
index.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from weaviate.proto.v1 import (
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    health_weaviate_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from tests.serving.running import running

__all__ = ["WeaviateServer"]

_CLASS = re.compile(r"[A-Z][_0-9A-Za-z]{0,254}")
_TENANT = re.compile(r"[A-Za-z0-9\-_]{1,64}")
_PROPERTY = re.compile(r"[_A-Za-z][_0-9A-Za-z]{0,230}")
_RESERVED = {"_additional", "_id", "id"}
_BASE64 = re.compile(
    r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})"
)
_MOST_RESULTS = 10_000
_LARGEST_MESSAGE = 104_858_000


class _RefusedError(Exception):
    """What the server answers with an error."""


@dataclass
class _Object:
    properties: dict[str, str]
    vectors: dict[str, np.ndarray]


@dataclass
class _Class:
    """A collection.

    Attributes:
        config: As it was created.
        tenants: Their objects, by id; all under "" in a collection without tenants.
        widths: Of the vectors by tenant and name, as the first one had it.
    """

    config: dict[str, Any]
    tenants: dict[str, dict[uuid.UUID, _Object]] = field(default_factory=dict)
    widths: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def types(self) -> dict[str, str]:
        return {each["name"]: each["dataType"][0] for each in self.config["properties"]}

    def objects_of(self, tenant: str) -> dict[uuid.UUID, _Object]:
        """The objects of a tenant.

        Raises:
            _RefusedError: If there is no such tenant.
        """
        name, enabled = self.config["class"], self.config["multiTenancyConfig"]["enabled"]
        if not enabled:
            if tenant:
                msg = f"class {name} has multi-tenancy disabled, but request was with tenant"
                raise _RefusedError(msg)
            return self.tenants.setdefault("", {})
        if not tenant:
            msg = f"class {name} has multi-tenancy enabled, but request was without tenant"
            raise _RefusedError(msg)
        if tenant not in self.tenants:
            raise _RefusedError(f'tenant not found: "{tenant}"')
        return self.tenants[tenant]


class WeaviateServer(weaviate_pb2_grpc.WeaviateServicer):
    """The requests of ``WeaviateRecords``, answered.

    Attributes:
        asked: All requests so far: method and path, or the name of the procedure.
        messages: The messages of all procedure calls so far.
        classes: The collections by name.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.messages: list[Any] = []
        self.classes: dict[str, _Class] = {}

    @contextmanager
    def serving(self) -> Iterator[tuple[int, int]]:
        """The ports of both interfaces, while they are served."""
        options = [("grpc.max_receive_message_length", _LARGEST_MESSAGE)]
        # One request after another: each finds the collections whole.
        server = grpc.server(ThreadPoolExecutor(1), options=options)
        weaviate_pb2_grpc.add_WeaviateServicer_to_server(self, server)
        server.add_generic_rpc_handlers([_health()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        app = FastAPI()
        app.add_api_route("/v1/{path:path}", self._http, methods=["GET", "HEAD", "POST"])
        with running(app) as url:
            yield int(url.split(":")[2].partition("/")[0]), port
        server.stop(None).wait()

    # -- HTTP -------------------------------------------------------------------------------------

    async def _http(self, path: str, request: Request) -> Response:
        self.asked.append(f"{request.method} /{path}")
        match path.split("/"):
            case ["meta"]:
                meta = {"version": "1.40.0", "grpcMaxMessageSize": _LARGEST_MESSAGE}
                return JSONResponse(meta)
            case ["schema"]:
                return self._create(await request.json())
            case ["schema", name]:
                known = self.classes.get(name)
                return JSONResponse(known.config) if known else Response(status_code=404)
            case ["schema", name, "tenants", tenant]:
                if name not in self.classes:
                    return Response(status_code=404)
                if not self.classes[name].config["multiTenancyConfig"]["enabled"]:
                    return Response(status_code=422)
                return Response(status_code=200 if tenant in self.classes[name].tenants else 404)
        return Response(status_code=404)

    def _create(self, config: dict[str, Any]) -> Response:
        try:
            name = config["class"]
            _check(_CLASS.fullmatch(name), f"'{name}' is not a valid class name")
            _check(name not in self.classes, f"class name {name} already exists")
            for each in config["properties"]:
                usable = _PROPERTY.fullmatch(each["name"]) and each["name"] not in _RESERVED
                _check(usable, f"'{each['name']}' is not a valid property name")
                _check(each["dataType"][0] in ("text", "blob"), "unknown data type")
                _check(
                    each["dataType"] == ["text"] or not each.get("indexSearchable"),
                    "`indexSearchable` is allowed only for text/text[] data types",
                )
            for vector in config["vectorConfig"].values():
                _check_vector(vector)
        except _RefusedError as error:
            return JSONResponse({"error": [{"message": str(error)}]}, status_code=422)
        config.setdefault("multiTenancyConfig", {"enabled": False})
        self.classes[name] = _Class(config)
        return JSONResponse(config)

    # -- gRPC -------------------------------------------------------------------------------------

    def BatchObjects(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("BatchObjects", request)
        reply = batch_pb2.BatchObjectsReply()
        for number, each in enumerate(request.objects):
            try:
                self._insert(each)
            except _RefusedError as error:
                reply.errors.add(index=number, error=str(error))
        return reply

    def _insert(self, sent: Any) -> None:
        known = self._class(sent.collection)
        settings = known.config["multiTenancyConfig"]
        if settings.get("autoTenantCreation") and sent.tenant not in known.tenants:
            _check(_TENANT.fullmatch(sent.tenant), f"'{sent.tenant}' is not a valid tenant name")
            known.tenants[sent.tenant] = {}
        objects = known.objects_of(sent.tenant)
        properties = dict(sent.properties.non_ref_properties.items())
        for name, value in properties.items():
            _check(name in known.types, f"no such prop with name '{name}' found in class")
            _check(isinstance(value, str), f"invalid property '{name}'")
            if known.types[name] == "blob":
                _check(_BASE64.fullmatch(value), "not a valid blob base64 string")
        vectors = {}
        for each in sent.vectors:
            _check(each.name in known.config["vectorConfig"], f"no vector named {each.name}")
            _check(each.type != base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32, "it is a multi vector")
            vectors[each.name] = np.frombuffer(each.vector_bytes, dtype="<f4")
            width = known.widths.setdefault((sent.tenant, each.name), len(vectors[each.name]))
            msg = f"new node has a vector with length {len(vectors[each.name])}, not {width}"
            _check(len(vectors[each.name]) == width, msg)
        objects[uuid.UUID(sent.uuid)] = _Object(properties, vectors)

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("Search", request)
        try:
            return self._search(request)
        except _RefusedError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))

    def _search(self, asked: Any) -> Any:
        _check(asked.limit <= _MOST_RESULTS, "query maximum results exceeded")
        known = self._class(asked.collection)
        wanted = asked.properties.non_ref_properties
        for name in wanted:
            _check(name in known.types, f"no such prop with name '{name}' found in class")
        near = asked.near_vector
        (target,) = near.targets.target_vectors
        _check(target in known.config["vectorConfig"], f"class does not have named vector {target}")
        sent = near.vectors[0].vector_bytes if near.vectors else near.vector_bytes
        vector = np.frombuffer(sent, dtype="<f4")
        objects = dict(known.objects_of(asked.tenant))  # other threads insert
        width = known.widths.get((asked.tenant, target), len(vector))
        _check(len(vector) == width, f"vector lengths don't match: {len(vector)} vs {width}")
        distances = {
            name: 1 - float(_unit(vector) @ _unit(each.vectors[target]))
            for name, each in objects.items()
            if target in each.vectors
        }
        reply = search_get_pb2.SearchReply()
        for name in sorted(distances, key=lambda name: distances[name])[: asked.limit or None]:
            found = reply.results.add()
            found.metadata.id = str(name)
            if asked.metadata.distance:
                found.metadata.distance, found.metadata.distance_present = distances[name], True
            found.properties.target_collection = asked.collection
            for key in wanted:
                value = objects[name].properties.get(key)
                found.properties.non_ref_props.fields[key].CopyFrom(_value(known.types[key], value))
        return reply

    def BatchDelete(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._note("BatchDelete", request)
        try:
            objects = self._class(request.collection).objects_of(request.tenant)
            wanted = request.filters
            _check(wanted.target.property == "_id", "unknown property")
            _check(wanted.operator == base_pb2.Filters.OPERATOR_CONTAINS_ANY, "unknown operator")
            ids = {uuid.UUID(value) for value in wanted.value_text_array.values}
        except _RefusedError as error:
            context.abort(grpc.StatusCode.UNKNOWN, str(error))
        gone = [name for name in ids if objects.pop(name, None) is not None]
        return batch_delete_pb2.BatchDeleteReply(matches=len(gone), successful=len(gone))

    def _note(self, name: str, request: Any) -> None:
        self.asked.append(name)
        self.messages.append(request)

    def _class(self, name: str) -> _Class:
        _check(name in self.classes, f"could not find class {name} in schema")
        return self.classes[name]


def _health() -> Any:
    def check(request: Any, context: Any) -> Any:
        status = health_weaviate_pb2.WeaviateHealthCheckResponse.SERVING
        return health_weaviate_pb2.WeaviateHealthCheckResponse(status=status)

    handler = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
        response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})


def _check_vector(config: dict[str, Any]) -> None:
    _check(
        config.get("vectorIndexType", "hnsw") == "hnsw",
        "unrecognized or unsupported vectorIndexType",
    )
    _check(config["vectorizer"] == {"none": {}}, "unknown vectorizer")
    index = config.get("vectorIndexConfig") or {}
    methods = [name for name in ("bq", "pq", "rq", "sq") if index.get(name, {}).get("enabled")]
    _check(len(methods) < 2, "more than a single compression methods enabled")
    if "rq" in methods:
        _check(index["rq"]["bits"] in (1, 8), "RQ: bits must be 8 or 1")
    known = {"distance", "skipDefaultQuantization", "bq", "pq", "rq", "sq"}
    _check(set(index) <= known, f"unknown settings: {set(index) - known}")
    _check(index.get("distance", "cosine") in ("cosine", "dot"), "unknown distance")


def _check(holds: object, message: str) -> None:
    if not holds:
        raise _RefusedError(message)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _value(kind: str, value: str | None) -> Any:
    if value is None:
        return properties_pb2.Value(null_value=0)  # type: ignore[arg-type]
    if kind == "blob":
        return properties_pb2.Value(blob_value=value)
    return properties_pb2.Value(text_value=value)
