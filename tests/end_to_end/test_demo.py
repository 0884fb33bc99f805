"""The whole way: every store filled, nothing changed by a second run, damage found by one check each and repaired."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from resources.journal import TradeJournal
from resources.lake_export import export_days
from resources.lmdb import LmdbStore
from resources.stores import Stores, open_stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, FEATURE
from tests.end_to_end.running import trading
from tests.recorded import recorded
from trading.market.timeframe import Timeframe
from trading.provider.book_tops import VOLUMES
from trading.stream.contiguity import IdRange
from trading_assets.checks import CHECKS
from trading_assets.cli.similar import similar
from trading_assets.cli.status import digests

END = "2026-11-01"
SYMBOL = "BTCUSDT"
NOBODYS_MS = 1_792_491_000_000
"""2026-10-20T10:10Z."""


def demo(home: Path, *more: str) -> dict[str, Any]:
    return trading(home, "demo", "--days", "29", "--end", END, "--symbols", SYMBOL, *more)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> dict[str, Any]:
    return demo(home)


@pytest.fixture
def stores(home: Path, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setenv("TRADING_SYMBOLS", SYMBOL)
    with open_stores(home) as opened:
        yield opened


def test_every_store_is_filled_and_every_check_passes(first: dict[str, Any]) -> None:
    assert first["status"] == 0
    assert first["failures"] == []
    assert first["checks"] == {"passed": len(CHECKS), "failed": 0} | {"passed": first["checks"]["passed"]}
    assert first["trade_gaps"] == 0
    assert all(first["lmdb"].values())
    assert all(first[name] for name in ("trades", "snapshots", "outcomes", "points", "neighbours"))
    assert first["candles"]["3m"] == 29 * 480


def test_a_second_run_changes_nothing_and_says_so(home: Path, first: dict[str, Any]) -> None:
    second = demo(home)
    assert set(second["changed"].values()) == {0}
    assert {name: second[name] for name in ("trades", "candles", "snapshots", "points")} == {
        name: first[name] for name in ("trades", "candles", "snapshots", "points")
    }


def test_the_present_of_a_market_that_has_ended_is_its_end(stores: Stores) -> None:
    end_ms = int(datetime.fromisoformat(END + "T00:00Z").timestamp() * 1000)
    for provider in (stores.provider, stores.live_provider):
        answer = provider.get_inference_data(SYMBOL, timeframes=["1m"], limit=60)
        assert answer.as_of_ms == end_ms
        assert answer.freshness["ohlcv.1m"] == 0 and len(answer.ohlcv[Timeframe.M1]) == 60


def test_what_is_lost_comes_back_exactly_and_is_counted(home: Path, stores: Stores) -> None:
    before = digests(stores)
    market = stores.market
    market.execute(
        "DELETE FROM md.candle WHERE (symbol_id, timeframe, open_time) IN "
        "(SELECT symbol_id, timeframe, open_time FROM md.candle WHERE timeframe = '1h' LIMIT 3)"
    )
    points = [identity for _, identity, _ in stores.index.stored(SYMBOL)]
    stores.index.delete(points[:2])
    delete_lmdb_entry(stores.lmdb, "candles_3m")
    with TradeJournal.write(stores.home.rocksdb_dir) as journal:
        journal.delete_batch(SYMBOL, journal.seconds(SYMBOL)[5])
        journal.checkpoint()
    stores.hot._client.flushall()
    again = demo(home)
    assert again["changed"] == {"rocksdb": 1, "postgres": 3, "lmdb": 1, "qdrant": 2, "redis": 1}
    assert digests(stores) == before


def delete_lmdb_entry(store: LmdbStore, database: str) -> None:
    entry = store.read(database, SYMBOL, 0, 2**62)
    place = int(entry["open_time"][7])
    store.write(database, SYMBOL, entry.head(0), place, place + 1)


def add_book(market: MarketStore) -> None:
    """Add a book that nobody recorded."""
    sides = {"bid_price": [5.0], "bid_quantity": [1.0], "ask_price": [6.0], "ask_quantity": [1.0]}
    row = {"time_ms": NOBODYS_MS, "last_update_id": 1, **sides, "known_at_ms": NOBODYS_MS}
    frame = pl.DataFrame([row], schema=BOOK_SNAPSHOT.schema)
    market.write(BOOK_SNAPSHOT, SYMBOL, frame, NOBODYS_MS, NOBODYS_MS + 1)


def add_second(market: MarketStore) -> None:
    """Add a second of a book that nobody recorded."""
    row = {"time_ms": NOBODYS_MS, **dict.fromkeys(VOLUMES, 1.0), "snapshots": 1, "known_at_ms": None}
    market.write(BOOK_1S, SYMBOL, pl.DataFrame([row], schema=BOOK_1S.schema), NOBODYS_MS, NOBODYS_MS + 1)


DAMAGE: dict[str, Callable[[Stores], Any]] = {
    "agg_trades": lambda s: s.market.execute(
        "DELETE FROM md.trade WHERE agg_trade_id = (SELECT min(agg_trade_id) + 9 FROM md.trade)"
    ),
    "trade_reconciliation": lambda s: s.market.execute(
        "UPDATE md.trade_reconciliation SET verdict = 'differs', reason = 'websocket and archive differ at 1 ids: 9' "
        "WHERE time = '2026-10-31'"
    ),
    "derivatives": lambda s: s.market.execute(
        "DELETE FROM md.derivative WHERE (kind, time) = (SELECT kind, max(time) FROM md.derivative GROUP BY kind LIMIT 1)"
    ),
    "candles_1m": lambda s: s.market.execute(
        "DELETE FROM md.candle WHERE timeframe = '1m' AND open_time = '2026-10-20T10:10Z'"
    ),
    "candles_3m": lambda s: s.market.execute(
        "UPDATE md.candle SET open_time = open_time + '1 minute' WHERE timeframe = '3m' AND open_time = '2026-10-20T10:12Z'"
    ),
    "candles_5m": lambda s: s.market.execute(
        "UPDATE md.candle SET volume = volume * (1 + 2.3e-16) "
        "WHERE timeframe = '5m' AND open_time = '2026-10-20T10:10Z'"
    ),
    "candles_15m": lambda s: s.market.execute(
        "UPDATE md.candle SET complete = false WHERE timeframe = '15m' AND open_time = '2026-10-20T10:15Z'"
    ),
    "candles_1h": lambda s: s.market.execute(
        "DELETE FROM md.candle WHERE timeframe = '1h' AND open_time = '2026-10-20T10:00Z'"
    ),
    "candles_4h": lambda s: s.market.execute(
        "UPDATE md.candle SET high = high * 2 WHERE timeframe = '4h' AND open_time = '2026-10-20T08:00Z'"
    ),
    "candles_1d": lambda s: s.market.execute(
        "UPDATE md.candle SET source = 'kline' WHERE timeframe = '1d' AND open_time = '2026-10-20'"
    ),
    "indicators_3m": lambda s: s.market.execute(
        "UPDATE md.indicator SET macd = 'NaN' WHERE timeframe = '3m' AND open_time = '2026-10-20T10:12Z'"
    ),
    "indicators_4h": lambda s: s.market.execute(
        "UPDATE md.indicator SET rsi_14 = 130 WHERE timeframe = '4h' AND open_time = '2026-10-20T08:00Z'"
    ),
    "lmdb_candles": lambda s: delete_lmdb_entry(s.lmdb, "candles_3m"),
    "lmdb_indicators": lambda s: delete_lmdb_entry(s.lmdb, "indicators_3m"),
    "market_snapshots": lambda s: s.market.execute(
        "UPDATE md.snapshot SET price = price + 1 WHERE time = '2026-10-20T10:15Z'"
    ),
    "snapshot_outcomes": lambda s: s.market.execute(
        "UPDATE md.outcome SET matures_at_ms = matures_at_ms - 1 WHERE time = '2026-10-20T10:15Z'"
    ),
    "snapshot_features": lambda s: s.market.execute(
        "UPDATE md.feature SET macd = 9 WHERE time = (SELECT max(time) FROM md.feature)"
    ),
    "qdrant_points": lambda s: s.index.delete([s.index.stored(SYMBOL)[3][1]]),
    "profile_minutes": lambda s: s.market.execute(
        "DELETE FROM md.profile_minute WHERE minute = (SELECT min(minute) FROM md.profile_minute)"
    ),
    "volume_profiles": lambda s: s.market.execute("UPDATE md.volume_profile SET trade_count = trade_count + 1"),
    "liquidity_vacuums": lambda s: s.market.execute(
        "INSERT INTO md.liquidity_vacuum SELECT symbol_id, '2026-10-20', 2, 3, 0, 1, 100, 'critical', 'moderate', 1, 4 "
        "FROM md.symbol LIMIT 1"
    ),
    "candles_1s": lambda s: s.market.execute(
        "DELETE FROM md.candle_1s WHERE open_time = (SELECT min(open_time) FROM md.candle_1s)"
    ),
    "book_snapshots": lambda s: add_book(s.market),
    "book_seconds": lambda s: add_second(s.market),
    "order_flow": lambda s: s.market.execute("UPDATE md.order_flow SET close = close * 2"),
    "order_books": lambda s: s.market.execute(
        "INSERT INTO md.order_book (symbol_id, minute, seconds) SELECT symbol_id, '2026-10-20', 60 FROM md.symbol LIMIT 1"
    ),
    "market_reports": lambda s: s.market.execute("UPDATE md.market_report SET markdown = markdown || ' '"),
    "lake": lambda s: export_and_cut_short(s),
    "retention": lambda s: s.market.note_days("retention_trade", SYMBOL, {"2026-10-20": (5, "1:2")}, []),
    "hot_values": lambda s: s.hot._client.hset(f"trading:latest:{SYMBOL}", "close", "1"),
    "query_latencies": lambda s: s.market.execute(
        "INSERT INTO md.monitor (monitor, name, value) VALUES ('query_latencies', 'one_day_1m.p99_ms', 9000)"
    ),
    "table_sizes": lambda s: s.market.execute(
        "INSERT INTO md.monitor (monitor, name, value) VALUES ('table_sizes', 'days_of_room', 3)"
    ),
    "rows_refused": lambda s: s.market.execute(
        "INSERT INTO md.monitor (monitor, name, value) VALUES ('rows_refused', 'candle.dead_letters', 1)"
    ),
    "live_equals_rebuild": lambda s: s.market.execute(
        "INSERT INTO md.monitor (monitor, name, value) "
        f"VALUES ('live_equals_rebuild', '{SYMBOL} candles_1m', 1792491000000)"
    ),
    "trade_batches": lambda s: lose_a_batch(s),
    "contract_batches": lambda s: claim_what_no_batch_holds(s),
    "instruments": lambda s: s.market.execute(f"UPDATE md.symbol SET base = 'XBT' WHERE name = '{SYMBOL}'"),
}


def export_and_cut_short(stores: Stores) -> None:
    exported = export_days(stores.market, stores.lake, "candle", SYMBOL, ["2026-10-20"], 2**45)
    os.truncate(stores.lake.file(exported.manifests[0]), 9)


NAMED = {"query_latencies": "one_day_1m", "table_sizes": "disk", "rows_refused": "candle"}
"""What a check names that is about no symbol."""


def claim_what_no_batch_holds(stores: Stores) -> None:
    with TradeJournal.write(stores.home.journal_dir("usdm")) as journal:
        journal.append({}, {SYMBOL: [IdRange(5, 9, 0, 1)]})


def lose_a_batch(stores: Stores) -> None:
    with TradeJournal.write(stores.home.rocksdb_dir) as journal:
        journal.delete_batch(SYMBOL, journal.seconds(SYMBOL)[5])


def test_neighbours_equal_an_exact_search_among_mature_states(stores: Stores) -> None:
    rows = stores.market.read(FEATURE, SYMBOL, 0, 2**45)
    vectors, times = rows.drop("ts_ms").to_numpy(), rows["ts_ms"].to_numpy()
    for place in range(len(times) - 1, len(times) - 50, -7):
        as_of = int(times[place])
        answer = similar(stores, SYMBOL, as_of, 5)
        distances = np.linalg.norm(vectors - vectors[place], axis=1)
        wanted = [i for i in np.argsort(distances, kind="stable") if times[i] + 86_400_000 <= as_of][:5]
        found = [
            pl.Series([n["time"]]).str.to_datetime(time_zone="UTC").dt.epoch("ms")[0] for n in answer["neighbours"]
        ]
        assert found == [int(times[i]) for i in wanted]


ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str) -> list[str]:
    """Return the code blocks of one language in README and docs."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]
    return [block.split("```")[0] for text in texts for block in text.split(f"```{language}\n")[1:]]


def test_the_code_blocks_of_the_docs_are_of_a_language_that_is_checked() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        opening = file.read_text(encoding="utf-8").split("```")[1::2]
        assert {block.partition("\n")[0] for block in opening} <= {"sh", "json", "python"}, file
    for block in blocks("json"):
        assert json.loads(block)


def test_the_commands_of_the_docs_run(home: Path, first: dict[str, Any], tmp_path: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] == ".venv/bin/trading"
        environment = {**os.environ, "TRADING_HOME": str(home), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "trading_assets.cli.main", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_an_unknown_symbol_is_one_clear_sentence(home: Path, first: dict[str, Any]) -> None:
    answer = trading(home, "similar", "NOPEUSDT")
    assert answer["status"] == 1
    assert "NOPEUSDT" in answer["error"]
    assert answer["hint"]


def test_a_home_of_another_clock_is_refused(home: Path, first: dict[str, Any]) -> None:
    answer = demo(home, "--seed", "99")
    assert answer["status"] == 1
    assert "seed" in answer["error"]


def test_recorded_trades_make_the_candles_that_another_program_made(tmp_path: Path) -> None:
    source = recorded("aggtrades/XRPETH_spot_20191011_20191013.rest.jsonl.gz")
    theirs = pl.read_ipc(recorded("klines/binance_spot/XRP_ETH-1m.feather"))
    folder = tmp_path / "recording" / "aggTrades"
    folder.mkdir(parents=True)
    (folder / "XRPETH.jsonl.gz").write_bytes(source.read_bytes())
    summary = trading(tmp_path / "home", "demo", "--recording", str(tmp_path / "recording"))
    assert summary["status"] == 0, summary
    assert (summary["trades"], summary["trade_gaps"], summary["checks"]["failed"]) == (12_477, 0, 0)
    out = tmp_path / "candles.parquet"
    trading(tmp_path / "home", "export", "candles", "--symbol", "XRPETH", "--timeframe", "1m", "--out", str(out))
    ours = pl.read_parquet(out)
    columns = ["open", "high", "low", "close", "volume"]
    assert ours.select(columns).equals(theirs.sort("date").select(columns))
    assert set(ours["source"]) == {"trades"}


def test_each_check_turns_red_for_its_damage_alone_and_names_a_key(stores: Stores) -> None:
    damaged: set[str] = set()
    for asset, damage in DAMAGE.items():
        damage(stores)
        damaged.add(asset)
        findings = {name: question(stores, [SYMBOL]) for name, (_, question) in CHECKS.items()}
        assert {name for name, finding in findings.items() if finding} == damaged, asset
        assert NAMED.get(asset, SYMBOL) in (findings[asset] or "")
    assert damaged == set(CHECKS)
