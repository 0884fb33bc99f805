import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from resources import qdrant as adapter
from resources.home import Home
from resources.qdrant import IndexUnavailable, Point, SnapshotIndex, WrongCollection
from resources.servers import running
from resources.settings import load_settings
from trading.rag.point import point_id

ROOT = Path(__file__).resolve().parents[2]
STEP_MS = 900_000
START_MS = 1_700_000_100_000
DAY_MS = 86_400_000
DIMENSION = 20


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("qdrant"))
    home.create("simulated", {})
    with running(home, load_settings(home.path, {}), ("qdrant",)) as urls:
        yield urls.qdrant


# The same suite runs on the owner, on qdrant-client's own memory mode, and on a real server where its URL is given.
@pytest.fixture(params=["owner", "memory", "server"])
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnapshotIndex]:
    place = os.environ.get("QDRANT_URL", "")
    if request.param == "server" and not place:
        pytest.skip("QDRANT_URL names no Qdrant server")
    if request.param == "owner":
        place = request.getfixturevalue("url")
    if request.param == "memory":
        monkeypatch.setattr(adapter, "QdrantClient", lambda **_: QdrantClient(":memory:"))
    found = SnapshotIndex(place, "conformance", DIMENSION)
    with warnings.catch_warnings():
        for message in ("Payload indexes have no effect in the local Qdrant", "Local mode performs exact"):
            warnings.filterwarnings("ignore", message=message)
        found.ensure()
        yield found
        found._client.delete_collection("conformance")
    found.close()


def states(symbol: str, count: int, seed: int = 0) -> list[Point]:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32).tolist()
    return [
        Point(
            point_id("sim", symbol, START_MS + n * STEP_MS, "feat_v1"),
            vector,
            {
                "symbol": symbol,
                "ts_ms": START_MS + n * STEP_MS,
                "matures_at_ms": START_MS + n * STEP_MS + DAY_MS,
                "digest": f"{symbol}-{n}",
            },
        )
        for n, vector in enumerate(vectors)
    ]


def test_a_search_finds_the_nearest_states_that_were_mature_exactly(index: SnapshotIndex) -> None:
    points = states("BTCUSDT", 400) + states("ETHUSDT", 50, seed=1)
    index.upsert(points)
    as_of_ms = START_MS + 200 * STEP_MS + DAY_MS
    asked = np.random.default_rng(2).normal(size=DIMENSION).astype(np.float32)
    known = [p for p in points if p.payload["symbol"] == "BTCUSDT" and p.payload["matures_at_ms"] <= as_of_ms]
    assert len(known) == 201
    distances = {p.id: float(np.linalg.norm(np.asarray(p.vector) - asked)) for p in known}
    found = index.query(asked.tolist(), symbol="BTCUSDT", as_of_ms=as_of_ms, k=30)
    assert [n.id for n in found] == sorted(distances, key=distances.__getitem__)[:30]
    assert [n.score for n in found] == pytest.approx(sorted(distances.values())[:30], rel=1e-5)
    assert all(n.payload["digest"].startswith("BTCUSDT") and n.ts_ms + DAY_MS <= as_of_ms for n in found)


def test_a_state_without_a_maturity_is_never_found(index: SnapshotIndex) -> None:
    young = states("BTCUSDT", 1)[0]
    index.upsert([Point(young.id, young.vector, {k: v for k, v in young.payload.items() if k != "matures_at_ms"})])
    assert index.query(young.vector, symbol="BTCUSDT", as_of_ms=2**52, k=10) == []
    index.upsert([young])
    assert [n.id for n in index.query(young.vector, symbol="BTCUSDT", as_of_ms=2**52, k=10)] == [young.id]
    assert index.query(young.vector, symbol="BTCUSDT", as_of_ms=young.payload["matures_at_ms"] - 1, k=10) == []


def test_states_written_twice_are_there_once(index: SnapshotIndex) -> None:
    points = states("BTCUSDT", 1500)
    index.upsert(points)
    index.upsert(points)
    assert (index.count(), index.count("BTCUSDT"), index.count("ETHUSDT")) == (1500, 1500, 0)


def test_a_state_written_anew_replaces_its_payload_whole(index: SnapshotIndex) -> None:
    point = states("BTCUSDT", 1)[0]
    index.upsert([point])
    index.upsert([Point(point.id, point.vector, {"symbol": "BTCUSDT", "ts_ms": 5, "digest": "other"})])
    assert index.stored("BTCUSDT") == [(5, point.id, "other")]


def test_stored_states_come_in_order_of_time_over_many_pages(
    index: SnapshotIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PAGE", 7)
    points = states("BTCUSDT", 40) + states("ETHUSDT", 3)
    index.upsert(points)
    lo_ms, hi_ms = START_MS + 5 * STEP_MS, START_MS + 35 * STEP_MS
    rows = index.stored("BTCUSDT", lo_ms, hi_ms)
    assert rows == [(p.payload["ts_ms"], p.id, p.payload["digest"]) for p in points[5:35]]
    assert index.payload_digests("BTCUSDT", lo_ms, hi_ms) == {p.id: p.payload["digest"] for p in points[5:35]}


def test_deleted_states_are_gone_and_deleting_again_is_no_error(index: SnapshotIndex) -> None:
    points = states("BTCUSDT", 10)
    index.upsert(points)
    for _ in range(2):
        index.delete([p.id for p in points[:4]])
    assert [row[1] for row in index.stored("BTCUSDT")] == [p.id for p in points[4:]]


def test_another_dimension_or_distance_is_refused_before_anything_is_written(index: SnapshotIndex) -> None:
    index._dimension = 3
    with pytest.raises(WrongCollection, match="3-dimensional"):
        index.ensure()
    index._dimension = DIMENSION
    index._client.create_collection(
        "by_cosine", vectors_config=models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
    )
    index._collection = "by_cosine"
    try:
        with pytest.raises(WrongCollection, match="Euclidean"):
            index.ensure()
    finally:
        index._client.delete_collection("by_cosine")
        index._collection = "conformance"


@pytest.mark.parametrize("vector", [[1.0] * 3, []], ids=["short", "empty"])
def test_a_vector_of_another_length_is_refused(index: SnapshotIndex, vector: list[float]) -> None:
    point = states("BTCUSDT", 1)[0]
    with pytest.raises(IndexUnavailable):
        index.upsert([Point(point.id, vector, point.payload)])
    assert index.count() == 0


def test_an_index_whose_creation_was_cut_short_is_completed(url: str) -> None:
    index = SnapshotIndex(url, "cut_short", 4)
    vectors = models.VectorParams(size=4, distance=models.Distance.EUCLID)
    index._client.create_collection("cut_short", vectors_config=vectors)
    index.ensure()
    schema = index._client.get_collection("cut_short").payload_schema
    assert {name: field.data_type.value for name, field in schema.items()} == {
        "symbol": "keyword",
        "ts_ms": "integer",
        "matures_at_ms": "integer",
    }
    index.close()


def test_the_calls_of_the_client_that_we_make_are_answered_as_by_a_server(url: str) -> None:
    client = QdrantClient(url=url, check_compatibility=False)
    name = "calls"
    client.create_collection(name, vectors_config=models.VectorParams(size=2, distance=models.Distance.EUCLID))
    client.upsert(name, [models.PointStruct(id=n, vector=[n, n], payload={"n": n}) for n in range(5)], wait=True)
    client.set_payload(name, {"late": True}, points=[3], wait=True)
    (three,) = client.retrieve(name, [3], with_vectors=True)
    assert (three.id, three.vector, three.payload) == (3, [3.0, 3.0], {"n": 3, "late": True})
    assert client.query_points(name, query=[0.0, 0.0], limit=1, with_vectors=True).points[0].vector == [0.0, 0.0]
    below = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=2))])
    client.delete(name, models.FilterSelector(filter=below), wait=True)
    assert client.count(name).count == 3
    assert name in [collection.name for collection in client.get_collections().collections]
    with pytest.raises(UnexpectedResponse, match="409"):
        client.create_collection(name, vectors_config=models.VectorParams(size=2, distance=models.Distance.EUCLID))
    client.delete_collection(name)
    assert not client.collection_exists(name)
    with pytest.raises(UnexpectedResponse, match="404"):
        client.count(name)
    client.close()


def call(url: str, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


BAD_BODIES: list[tuple[str, Any]] = [
    ("points", b"{"),
    ("points", b"\xff"),
    ("points", []),
    ("points", {}),
    ("points", {"points": [{"id": "not a uuid", "vector": [1, 2], "payload": {}}]}),
    ("points", {"points": [{"id": 1, "vector": ["a", 2]}]}),
    ("points", b'{"points": [{"id": 1, "vector": [NaN, 1]}]}'),
    ("points/query", {"query": [1.0, 2.0, 3.0]}),
    ("points/query", {"query": [1.0, 2.0], "limit": -1}),
    ("points/query", {"query": [1.0, 2.0], "filter": {"must_not": [{"key": "a", "match": {"value": 1}}]}}),
    ("points/query", {"query": [1.0, 2.0], "filter": {"must": [{"key": "a", "geo_radius": {}}]}}),
    ("points/query", {"query": [1.0, 2.0], "filter": {"must": "all"}}),
    ("points/delete", {"filter": {}}),
    ("points/scroll", {"offset": "not a uuid"}),
    ("points/count", {"filter": [1]}),
    ("points/payload", {"payload": {}}),
    ("index", {"field_name": "a", "field_schema": "geo"}),
]


@pytest.mark.parametrize(("path", "body"), BAD_BODIES)
def test_a_bad_body_is_refused_in_the_form_of_a_server_and_changes_nothing(url: str, path: str, body: Any) -> None:
    call(url, "/collections/bad", {"vectors": {"size": 2, "distance": "Euclid"}}, "PUT")
    call(url, "/collections/bad/points", {"points": [{"id": 9, "vector": [1, 2]}]}, "PUT")
    status, answer = call(url, f"/collections/bad/{path}", body, "PUT" if path in ("points", "index") else "POST")
    assert 400 <= status < 500
    assert answer["status"]["error"]
    assert call(url, "/collections/bad/points/count", {})[1]["result"] == {"count": 1}


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fpostgres", "a%2fb", "%00"])
def test_a_collection_name_cannot_leave_the_folder(url: str, name: str) -> None:
    body = b'{"vectors": {"size": 2, "distance": "Euclid"}}'
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{url}/collections/{name}", body, method="PUT"), timeout=10)
    with refused.value:
        assert 400 <= refused.value.code < 500


@pytest.mark.parametrize("headers", [{"Origin": "https://example.org"}, {"Host": "example.org"}], ids=["page", "name"])
def test_a_web_page_cannot_write(url: str, headers: dict[str, str]) -> None:
    status, _ = call(url, "/collections/page", {"vectors": {"size": 2, "distance": "Euclid"}}, "PUT", **headers)
    assert status == 403
    assert call(url, "/collections/page/exists", None, "GET")[1]["result"] == {"exists": False}


def test_a_server_that_is_away_is_named() -> None:
    index = SnapshotIndex("http://127.0.0.1:1")
    for attempt in (index.ensure, index.count, lambda: index.stored("BTCUSDT"), lambda: index.delete(["x"])):
        with pytest.raises(IndexUnavailable) as refused:
            attempt()
        assert "TRADING_QDRANT_URL" in refused.value.hint
    index.close()


def start_owner(folder: Path, ready: Path) -> tuple[subprocess.Popen[bytes], str]:
    ready.unlink(missing_ok=True)
    owner = subprocess.Popen([sys.executable, "-m", "resources.qdrant_owner", str(folder), str(ready)], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert owner.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return owner, f"http://127.0.0.1:{json.loads(ready.read_text())['port']}"


def test_no_acknowledged_state_is_lost_when_the_owner_is_killed_between_batches(tmp_path: Path) -> None:
    points = states("BTCUSDT", 600)
    written = 0
    for _ in range(3):
        owner, place = start_owner(tmp_path, tmp_path / "ready.json")
        index = SnapshotIndex(place, dimension=DIMENSION)
        index.ensure()
        assert index.count() == written
        for first in range(written, written + 200, 20):
            index.upsert(points[first : first + 20])
        written += 200
        index.close()
        owner.kill()
        owner.wait()
    owner, place = start_owner(tmp_path, tmp_path / "ready.json")
    index = SnapshotIndex(place, dimension=DIMENSION)
    assert index.stored("BTCUSDT") == [(p.payload["ts_ms"], p.id, p.payload["digest"]) for p in points]
    index.close()
    owner.send_signal(signal.SIGINT)
    assert owner.wait(20) == 0


def test_a_deletion_that_was_cut_short_does_not_keep_the_owner_from_starting(tmp_path: Path) -> None:
    owner, place = start_owner(tmp_path, tmp_path / "ready.json")
    index = SnapshotIndex(place, "left", 4)
    index.ensure()
    owner.terminate()
    assert owner.wait(20) == 0
    (tmp_path / "left" / "collection.json").unlink()
    owner, place = start_owner(tmp_path, tmp_path / "ready.json")
    again = SnapshotIndex(place, "left", 4)
    again.ensure()
    assert again.count() == 0
    index.close()
    again.close()
    owner.terminate()
    assert owner.wait(20) == 0


def test_the_id_of_a_state_is_the_same_everywhere_and_differs_by_each_part() -> None:
    assert point_id("sim", "BTCUSDT", START_MS, "feat_v1") == point_id("sim", "BTCUSDT", START_MS, "feat_v1")
    others = {
        point_id(venue, symbol, ts_ms, version)
        for venue in ("sim", "binance")
        for symbol in ("BTCUSDT", "币安人生USDT")
        for ts_ms in (START_MS, START_MS + 1)
        for version in ("feat_v1", "feat_v2")
    }
    assert len(others) == 16
