"""Qdrant's engine behind Qdrant's HTTP interface, as far as records need that.

No Qdrant server comes in a package that tests could install; its engine does (Qdrant Edge). What is
between both, which requests there are and what they look like, is read here with Qdrant's models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qdrant_edge as edge
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from qdrant_client import models

__all__ = ["QdrantServer"]


class QdrantServer:
    """The requests of ``QdrantRecords``, answered.

    Args:
        folder: Where the engine keeps collections.

    Attributes:
        app: The application.
        asked: Method and path of all requests so far.
        bodies: Their bodies, by method and path; the last one of each.
    """

    def __init__(self, folder: Path) -> None:
        self.app = FastAPI()
        self.asked: list[str] = []
        self.bodies: dict[str, Any] = {}
        self._folder = folder
        self._shards: dict[str, Any] = {}
        self.app.add_api_route("/{path:path}", self._answer, methods=["GET", "PUT", "POST"])

    def close(self) -> None:
        """Closes the collections."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    async def _answer(self, path: str, request: Request) -> JSONResponse:
        name, _, action = path.removeprefix("collections/").partition("/")
        body = await request.body()
        asked = f"{request.method} /{path}"
        self.asked.append(asked)
        self.bodies[asked] = await request.json() if body else None
        try:
            result = self._result(f"{request.method} {action}", name, body)
        except Exception as error:  # whatever the engine refuses
            return JSONResponse({"status": {"error": str(error)}, "time": 0}, status_code=400)
        return JSONResponse({"result": result, "status": "ok", "time": 0})

    def _result(self, asked: str, name: str, body: bytes) -> Any:
        if asked == "GET exists":
            return {"exists": name in self._shards}
        if asked == "PUT ":
            self._create(name, models.CreateCollection.model_validate_json(body))
            return True
        if name not in self._shards:
            raise ValueError(f"Collection `{name}` doesn't exist!")
        shard = self._shards[name]
        if asked == "POST points/query":
            found = shard.query(_query(models.QueryRequest.model_validate_json(body)))
            return {"points": [_point(point) for point in found]}
        shard.update(_update(asked, body))
        return {"operation_id": 0, "status": "completed"}

    def _create(self, name: str, wanted: models.CreateCollection) -> None:
        assert isinstance(wanted.vectors, dict)
        config = edge.EdgeConfig(
            vectors={key: _vector_params(params) for key, params in wanted.vectors.items()},
            on_disk_payload=wanted.on_disk_payload,
        )
        folder = self._folder / name
        folder.mkdir(parents=True)
        self._shards[name] = edge.EdgeShard.create(str(folder), config)


def _vector_params(params: models.VectorParams) -> Any:
    multi, bits, graph = params.multivector_config, params.quantization_config, params.hnsw_config
    assert params.distance is models.Distance.DOT
    assert bits is None or isinstance(bits, models.BinaryQuantization)
    assert graph is not None
    assert graph.m == 0
    return edge.EdgeVectorParams(
        size=params.size,
        distance=edge.Distance.Dot,
        on_disk=params.on_disk,
        multivector_config=multi and edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
        datatype=edge.VectorStorageDatatype.Float16
        if params.datatype is models.Datatype.FLOAT16
        else None,
        quantization_config=bits and edge.BinaryQuantizationConfig(bits.binary.always_ram),
        hnsw_config=edge.HnswIndexConfig(0, 100, 10_000, payload_m=graph.payload_m),
    )


def _query(asked: models.QueryRequest) -> Any:
    prefetches = asked.prefetch if isinstance(asked.prefetch, list) else []
    return edge.QueryRequest(
        limit=asked.limit or 10,
        query=_nearest(asked),
        prefetches=[
            edge.Prefetch(each.limit, query=_nearest(each), filter=_filter(each.filter))
            for each in prefetches
        ],
        filter=_filter(asked.filter),
        with_payload=asked.with_payload,
        with_vector=asked.with_vector,
    )


def _nearest(asked: Any) -> Any:
    vector = asked.query.nearest if isinstance(asked.query, models.NearestQuery) else asked.query
    return edge.Query.Nearest(vector, using=asked.using)


def _filter(wanted: Any) -> Any:
    conditions = []
    for condition in wanted.must:
        if isinstance(condition, models.HasIdCondition):
            conditions.append(edge.HasIdCondition(set(condition.has_id)))
        else:
            value = edge.MatchValue(condition.match.value)
            conditions.append(edge.FieldCondition(condition.key, match=value))
    return edge.Filter(must=conditions)


def _update(asked: str, body: bytes) -> Any:
    if asked == "PUT index":
        index = models.CreateFieldIndex.model_validate_json(body).field_schema
        assert isinstance(index, models.KeywordIndexParams)
        return edge.UpdateOperation.create_field_index(
            "tenant", edge.KeywordIndexParams(is_tenant=index.is_tenant)
        )
    if asked == "PUT points":
        points = models.PointsList.model_validate_json(body).points
        return edge.UpdateOperation.upsert_points(
            [edge.Point(point.id, point.vector, point.payload) for point in points]
        )
    assert asked == "POST points/delete"
    chosen = models.FilterSelector.model_validate_json(body)
    return edge.UpdateOperation.delete_points_by_filter(_filter(chosen.filter))


def _point(point: Any) -> dict[str, Any]:
    return {
        "id": str(point.id),
        "version": point.version,
        "score": point.score,
        "payload": point.payload,
        "vector": point.vector,
    }
