"""Qdrant's HTTP interface in front of the client's own small implementation.

No Qdrant server comes in a package that tests could install. What is tested here is what goes over
the wire: that requests are what Qdrant's models say, and how many of them there are.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from qdrant_client import QdrantClient, models

__all__ = ["QdrantServer"]


class QdrantServer:
    """The requests of ``QdrantRecords``, answered.

    Attributes:
        app: The application.
        asked: Method and path of all requests so far.
        bodies: Their bodies, by method and path; the last one of each.
    """

    def __init__(self) -> None:
        self.app = FastAPI()
        self.asked: list[str] = []
        self.bodies: dict[str, Any] = {}
        self._qdrant = QdrantClient(":memory:")
        self.app.add_api_route("/{path:path}", self._answer, methods=["GET", "PUT", "POST"])

    async def _answer(self, path: str, request: Request) -> JSONResponse:
        name, _, action = path.removeprefix("collections/").partition("/")
        body = await request.body()
        asked = f"{request.method} /{path}"
        self.asked.append(asked)
        self.bodies[asked] = await request.json() if body else None
        if path == "":
            return JSONResponse({"title": "qdrant", "version": "1.17.0"})
        try:
            result = self._result(f"{request.method} {action}", name, body)
        except ValueError as error:
            return JSONResponse({"status": {"error": str(error)}, "time": 0}, status_code=400)
        shown = result.model_dump(mode="json") if hasattr(result, "model_dump") else result
        return JSONResponse({"result": shown, "status": "ok", "time": 0})

    def _result(self, asked: str, name: str, body: bytes) -> Any:
        known = self._qdrant.collection_exists(name)
        if asked == "GET exists":
            return {"exists": known}
        if asked == "PUT ":
            create = models.CreateCollection.model_validate_json(body)
            assert create.vectors is not None
            return self._qdrant.create_collection(name, vectors_config=create.vectors)
        if not known:
            raise ValueError(f"Collection `{name}` doesn't exist!")
        if asked == "PUT index":
            models.CreateFieldIndex.model_validate_json(body)
            return {"operation_id": 0, "status": "completed"}
        if asked == "PUT points":
            return self._qdrant.upsert(name, models.PointsList.model_validate_json(body).points)
        if asked == "POST points/query":
            query = models.QueryRequest.model_validate_json(body)
            return self._qdrant.query_points(
                name,
                query=query.query,
                using=query.using,
                prefetch=query.prefetch,
                query_filter=query.filter,
                limit=query.limit or 10,
                with_payload=query.with_payload or False,
                with_vectors=query.with_vector or False,
            )
        if asked == "POST points/delete":
            chosen = models.FilterSelector.model_validate_json(body)
            return self._qdrant.delete(name, chosen)
        raise AssertionError(f"the library never asks {asked}")
