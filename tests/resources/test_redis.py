import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from resources.home import Home
from resources.redis import PREFIX, CacheUnavailable, HotValues
from resources.servers import running
from resources.settings import load_settings

ROWS = {"BTCUSDT": {"close": "60000.5", "timeframe": "3m"}, "币安人生USDT": {"close": "1.25"}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("redis"))
    home.create("simulated", {})
    with running(home, load_settings(home.path, {}), ("redis",)) as urls:
        yield urls.redis


@pytest.fixture
def raw(url: str) -> Iterator[Redis]:
    with Redis.from_url(url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def hot(url: str, raw: Redis) -> Iterator[HotValues]:
    values = HotValues(url)
    yield values
    values.close()


def test_hot_values_become_what_the_rows_say(hot: HotValues) -> None:
    assert hot.rebuild(ROWS) == 2
    assert hot.get("币安人生USDT") == {"close": "1.25"}
    assert hot.get("unknown") == {}


def test_a_rebuild_of_the_same_rows_changes_nothing(hot: HotValues) -> None:
    hot.rebuild(ROWS)
    assert hot.differing(ROWS) == []
    assert hot.rebuild(ROWS) == 0


def test_a_lost_a_stray_and_a_spoilt_value_are_found_and_mended(hot: HotValues, raw: Redis) -> None:
    hot.rebuild(ROWS)
    raw.delete(f"{PREFIX}BTCUSDT")
    raw.hset(f"{PREFIX}STRAY", "close", "1")
    raw.hset(f"{PREFIX}币安人生USDT", "left over", "1")
    assert hot.differing(ROWS) == ["BTCUSDT", "STRAY", "币安人生USDT"]
    assert hot.rebuild(ROWS) == 3
    assert (hot.differing(ROWS), hot.get("STRAY")) == ([], {})


def test_a_value_of_another_kind_counts_as_a_miss_and_is_replaced(hot: HotValues, raw: Redis) -> None:
    raw.set(f"{PREFIX}BTCUSDT", "not a hash")
    assert hot.get("BTCUSDT") == {}
    assert hot.rebuild(ROWS) == 2
    assert hot.get("BTCUSDT") == ROWS["BTCUSDT"]


def test_every_key_expires(hot: HotValues, raw: Redis) -> None:
    hot.rebuild(ROWS)
    raw.persist(f"{PREFIX}BTCUSDT")
    hot.rebuild(ROWS)
    assert all(raw.ttl(key) > 0 for key in raw.scan_iter())


def test_an_emptied_server_is_rebuilt_whole(hot: HotValues, raw: Redis) -> None:
    hot.rebuild(ROWS)
    raw.flushall()
    assert hot.rebuild(ROWS) == 2


def test_a_server_that_is_away_is_named_at_once(tmp_path: Path) -> None:
    hot = HotValues(f"unix://{tmp_path}/none.sock")
    began = time.monotonic()
    for call in (lambda: hot.get("BTCUSDT"), lambda: hot.rebuild(ROWS), lambda: hot.differing(ROWS)):
        with pytest.raises(CacheUnavailable) as refused:
            call()
        assert "TRADING_REDIS_URL" in refused.value.hint
    assert time.monotonic() - began < 2


def test_a_server_that_refuses_to_write_is_named(hot: HotValues, raw: Redis) -> None:
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(CacheUnavailable, match="maxmemory"):
            hot.rebuild(ROWS)
    finally:
        raw.config_set("maxmemory", 0)
    assert hot.rebuild(ROWS) == 2


def test_a_server_that_never_answers_costs_five_seconds_at_most() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hot = HotValues(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(CacheUnavailable):
            hot.get("BTCUSDT")
        assert time.monotonic() - began < 6
        hot.close()
