"""The one process that owns a home's Qdrant Edge shards and answers for them over Qdrant's REST API.

A shard admits a single opener, so all callers come here, with qdrant-client and a URL, exactly as to a Qdrant server;
only the calls that this project makes are answered. Writes are in the shard's log before the answer is sent.

`python -m resources.qdrant_owner FOLDER READY_FILE`
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import qdrant_edge as edge
from aiohttp import web

EXACT_SEARCH_KB = 2**40
"""Segments are never indexed: exact search is faster than HNSW up to about a million points, and exact."""

DISTANCES = {"Cosine": edge.Distance.Cosine, "Euclid": edge.Distance.Euclid, "Dot": edge.Distance.Dot}
SCHEMAS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}
NAMES = {schema: name for name, schema in SCHEMAS.items()}


class Refusal(Exception):
    """An answer other than 200, with Qdrant's own status."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Shards:
    """The shards of a folder by collection name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, edge.EdgeShard] = {}
        for meta in folder.glob("*/collection.json"):
            self.open[meta.parent.name] = edge.EdgeShard.load(str(meta.parent / "shard"))

    def get(self, name: str) -> edge.EdgeShard:
        """Return one collection's shard."""
        if name not in self.open:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return self.open[name]

    def parameters(self, name: str) -> dict[str, Any]:
        """Return a collection's vector parameters as they were created."""
        self.get(name)
        return json.loads((self.folder / name / "collection.json").read_text(encoding="utf-8"))

    def create(self, name: str, vectors: dict[str, Any]) -> None:
        """Create a collection with one unnamed vector."""
        if name in self.open:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise Refusal(422, f"Wrong input: collection name {name!r}")
        if vectors.get("distance") not in DISTANCES or not isinstance(vectors.get("size"), int):
            raise Refusal(422, "Format error in JSON body: vectors need size and distance")
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=vectors["size"], distance=DISTANCES[vectors["distance"]]),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=EXACT_SEARCH_KB),
        )
        self.open[name] = edge.EdgeShard.create(str(folder / "shard"), config)
        unfinished = folder / "collection.json.unfinished"
        unfinished.write_text(json.dumps(vectors), encoding="utf-8")
        unfinished.replace(folder / "collection.json")

    def delete(self, name: str) -> None:
        """Delete a collection."""
        self.get(name).close()
        del self.open[name]
        # Without this file the rest is a leftover; the other way round a kill here would leave a shard that cannot load.
        (self.folder / name / "collection.json").unlink()
        shutil.rmtree(self.folder / name)

    def close(self) -> None:
        """Flush and close all."""
        for shard in self.open.values():
            shard.flush()
            shard.close()


def filter_of(body: dict[str, Any] | None) -> edge.Filter | None:
    """Return a filter of `must` conditions: match on a value, range of numbers, has_id."""
    if not body:
        return None
    unknown = [name for name, value in body.items() if value and name != "must"]
    if unknown:
        raise Refusal(400, f"Wrong input: filter clause {unknown[0]!r} is not supported by the embedded engine")
    conditions: list[Any] = []
    for condition in body.get("must") or []:
        if condition.get("has_id") is not None:
            conditions.append(edge.HasIdCondition([_id(value) for value in condition["has_id"]]))
        elif condition.get("match") is not None:
            conditions.append(edge.FieldCondition(condition["key"], match=edge.MatchValue(condition["match"]["value"])))
        elif condition.get("range") is not None:
            bounds = {name: value for name, value in condition["range"].items() if value is not None}
            conditions.append(edge.FieldCondition(condition["key"], range=edge.RangeFloat(**bounds)))
        else:
            raise Refusal(400, "Wrong input: only match, range and has_id conditions are supported")
    return edge.Filter(must=conditions)


def _id(value: Any) -> Any:
    return uuid.UUID(value) if isinstance(value, str) else value


def _record(point: Any, scored: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": str(point.id) if isinstance(point.id, uuid.UUID) else point.id}
    answer |= {"payload": point.payload, "vector": point.vector}
    return answer | {"version": 0, "score": point.score} if scored else answer


class Api:
    """The REST calls, each on the shards and nothing else."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def routes(self) -> list[web.RouteDef]:
        """Return all routes."""
        one = "/collections/{name}"
        return [
            web.get("/", self.root),
            web.get("/collections", self._answer(self.names)),
            web.get(f"{one}/exists", self._answer(self.exists)),
            web.get(one, self._answer(self.describe)),
            web.put(one, self._answer(self.create)),
            web.delete(one, self._answer(self.delete)),
            web.put(f"{one}/index", self._answer(self.index)),
            web.put(f"{one}/points", self._answer(self.upsert)),
            web.post(f"{one}/points", self._answer(self.retrieve)),
            web.post(f"{one}/points/delete", self._answer(self.remove)),
            web.post(f"{one}/points/payload", self._answer(self.set_payload)),
            web.post(f"{one}/points/query", self._answer(self.query)),
            web.post(f"{one}/points/scroll", self._answer(self.scroll)),
            web.post(f"{one}/points/count", self._answer(self.count)),
        ]

    def _answer(self, call: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            started = time.perf_counter()
            try:
                body = msgspec.json.decode(await request.read()) if request.can_read_body else {}
                result, status, said = call(request.match_info.get("name", ""), body), 200, "ok"
            except Refusal as refusal:
                result, status, said = None, refusal.status, {"error": str(refusal)}
            except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
                result, status, said = None, 400, {"error": f"Format error in JSON body: {error}"}
            except Exception as error:  # the engine raises bare exceptions; a caller sees them as a bad request
                result, status, said = None, 400, {"error": f"Wrong input: {error}"}
            answer = {"result": result, "status": said, "time": time.perf_counter() - started}
            return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")

        return handle

    @web.middleware
    async def loopback_only(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse what a web page in a browser on this machine could send: another origin, or a name bound to 127.0.0.1."""
        host = request.host.rsplit(":", 1)[0]
        if "Origin" in request.headers or host not in ("127.0.0.1", "localhost"):
            return web.json_response({"status": {"error": "Forbidden: only local clients are served"}}, status=403)
        return await handler(request)

    async def root(self, request: web.Request) -> web.Response:
        """Say what answers here, in the form of a Qdrant server."""
        return web.json_response({"title": "qdrant - vector search engine", "version": "1.20.0", "commit": "edge"})

    def names(self, name: str, body: Any) -> Any:
        """List the collections."""
        return {"collections": [{"name": name} for name in self.shards.open]}

    def exists(self, name: str, body: Any) -> Any:
        """Say whether a collection exists."""
        return {"exists": name in self.shards.open}

    def describe(self, name: str, body: Any) -> Any:
        """Describe a collection."""
        shard = self.shards.get(name)
        points = shard.count(edge.CountRequest(exact=True))
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
        config = {
            "params": {"vectors": self.shards.parameters(name), "shard_number": 1},
            "hnsw_config": hnsw,
            "optimizer_config": {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "flush_interval_sec": 5}
            | {"default_segment_number": 0},
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": points,
            "indexed_vectors_count": 0,
            "segments_count": 1,
            "config": config,
            "payload_schema": {
                field: {"data_type": NAMES[index.data_type], "points": index.points}
                for field, index in shard.info().payload_schema.items()
            },
        }

    def create(self, name: str, body: Any) -> Any:
        """Create a collection."""
        self.shards.create(name, body.get("vectors") or {})
        return True

    def delete(self, name: str, body: Any) -> Any:
        """Delete a collection."""
        self.shards.delete(name)
        return True

    def index(self, name: str, body: Any) -> Any:
        """Index one payload field."""
        schema = body["field_schema"]
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind not in SCHEMAS:
            raise Refusal(400, f"Wrong input: payload schema {kind!r} is not supported by the embedded engine")
        return self._update(name, edge.UpdateOperation.create_field_index(body["field_name"], SCHEMAS[kind]))

    def upsert(self, name: str, body: Any) -> Any:
        """Insert or replace points."""
        points = [edge.Point(_id(p["id"]), p["vector"], p.get("payload") or {}) for p in body["points"]]
        return self._update(name, edge.UpdateOperation.upsert_points(points))

    def remove(self, name: str, body: Any) -> Any:
        """Delete points by id or filter."""
        if body.get("points") is not None:
            return self._update(name, edge.UpdateOperation.delete_points([_id(point) for point in body["points"]]))
        where = filter_of(body["filter"])
        if where is None:
            raise Refusal(400, "Wrong input: an empty filter would delete all points")
        return self._update(name, edge.UpdateOperation.delete_points_by_filter(where))

    def set_payload(self, name: str, body: Any) -> Any:
        """Set payload fields of points."""
        ids = [_id(point) for point in body["points"]]
        return self._update(name, edge.UpdateOperation.set_payload(ids, body["payload"]))

    def query(self, name: str, body: Any) -> Any:
        """Return the nearest points."""
        query = body["query"]
        vector = query["nearest"] if isinstance(query, dict) else query
        request = edge.QueryRequest(
            limit=body.get("limit") or 10,
            query=edge.Query.Nearest(vector),
            filter=filter_of(body.get("filter")),
            with_payload=bool(body.get("with_payload")),
            with_vector=bool(body.get("with_vector")),
            params=edge.SearchParams(exact=True),
        )
        return {"points": [_record(point, scored=True) for point in self.shards.get(name).query(request)]}

    def retrieve(self, name: str, body: Any) -> Any:
        """Return points by id."""
        points = self.shards.get(name).retrieve(
            [_id(point) for point in body["ids"]], bool(body.get("with_payload", True)), bool(body.get("with_vector"))
        )
        return [_record(point) for point in points]

    def scroll(self, name: str, body: Any) -> Any:
        """Return points page by page in the order of ids."""
        request = edge.ScrollRequest(
            offset=_id(body["offset"]) if body.get("offset") is not None else None,
            limit=body.get("limit") or 10,
            filter=filter_of(body.get("filter")),
            with_payload=body.get("with_payload", True) is not False,
            with_vector=bool(body.get("with_vector")),
        )
        points, following = self.shards.get(name).scroll(request)
        wanted = body.get("with_payload")
        records = [_record(point) for point in points]
        if isinstance(wanted, list):
            for record in records:
                record["payload"] = {field: (record["payload"] or {}).get(field) for field in wanted}
        offset = str(following) if isinstance(following, uuid.UUID) else following
        return {"points": records, "next_page_offset": offset}

    def count(self, name: str, body: Any) -> Any:
        """Count points."""
        request = edge.CountRequest(exact=True, filter=filter_of(body.get("filter")))
        return {"count": self.shards.get(name).count(request)}

    def _update(self, name: str, operation: edge.UpdateOperation) -> Any:
        self.shards.get(name).update(operation)
        return {"operation_id": 0, "status": "completed"}


async def serve(folder: Path, ready: Path) -> None:
    """Answer on a free loopback port until SIGTERM or SIGINT."""
    shards = Shards(folder)
    api = Api(shards)
    app = web.Application(client_max_size=64 * 2**20, middlewares=[api.loopback_only])
    app.add_routes(api.routes())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    unfinished = ready.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
    unfinished.replace(ready)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()
    shards.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
