"""The monitors as assets on a real home: what a run shows, and that its checks follow what it found."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest

from resources.home import Home
from resources.stores import Stores, open_stores
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.monitor import SHAPES
from resources.timescale.quarantine import RefusedRows
from resources.timescale.tables import CANDLE
from resources.wiring import MarketDatabase
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.provider.pipeline import Batch, Series
from trading_assets.checks import CHECKS
from trading_assets.cli import main as cli
from trading_assets.monitors import query_latencies, rows_refused, table_sizes
from trading_assets.plots import LARGEST

SYMBOL, START_MS, COUNT = "BTCUSDT", 1_760_000_400_000, 2_000


def bars(count: int) -> pl.DataFrame:
    """Return complete minutes at one price."""
    values = {"volume": 1.0, "quote_volume": 9.0, "trade_count": 1, "n_present": 1, "n_expected": 1, "complete": True}
    values |= dict.fromkeys(("open", "high", "low", "close"), 9.0) | {"source": "kline"}
    times = [START_MS + number * MINUTE_MS for number in range(count)]
    columns = {name: [values.get(name)] * count for name in CANDLE.schema}
    return pl.DataFrame(columns | {"open_time": times}, schema=CANDLE.schema)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    path = tmp_path_factory.mktemp("home")
    path.chmod(0o755)
    Home(path).create("simulated", {})
    with open_stores(path) as opened:
        opened.market.register([Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5)])
        opened.market.write(CANDLE, SYMBOL, bars(COUNT), START_MS, START_MS + COUNT * MINUTE_MS, Timeframe.M1)
        yield opened


def run(stores: Stores, asset: dg.AssetsDefinition) -> dict[str, Any]:
    """Materialize one monitor and return what its page shows."""
    done = dg.materialize([asset], resources={"market": MarketDatabase(home=str(stores.home.path))})
    (event,) = done.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def finding(stores: Stores, asset: dg.AssetsDefinition) -> str | None:
    return CHECKS[asset.key.to_user_string()][1](stores, [])


def test_each_question_is_shown_with_its_times_in_a_small_picture(stores: Stores) -> None:
    shown = run(stores, query_latencies)
    assert {name for name in shown if name.endswith("_ms")} == {
        f"{shape.name}.{time}_ms" for shape in SHAPES for time in ("first", "p50", "p99")
    }
    assert shown["read_from_end_to_end"] == "none"
    assert len(shown["latencies"]) < 4 / 3 * LARGEST + 100
    # How fast this machine answers now is not what is tested.
    stores.market.execute("UPDATE md.monitor SET value = CASE name WHEN 'profile_24h.p99_ms' THEN 9000 ELSE 0 END")
    assert finding(stores, query_latencies) == "profile_24h: p99 9000 ms, 400 ms is the most"


def test_a_young_home_has_sizes_and_no_forecast_and_one_that_grows_fast_an_alarm(stores: Stores) -> None:
    shown = run(stores, table_sizes)
    assert (shown["days_of_room"], finding(stores, table_sizes)) == ("unknown", None)
    assert shown["total_bytes"] > 80 * COUNT
    assert len(shown["growth"]) < 4 / 3 * LARGEST + 100
    stores.market.execute(
        "INSERT INTO md.monitor (monitor, name, time, value) SELECT 'table_sizes', 'total_bytes', "
        "now() - n * interval '1 day', -n * 1e12 FROM generate_series(1, 3) n"
    )
    assert run(stores, table_sizes)["days_of_room"] < 30
    assert "the disk is full in" in str(finding(stores, table_sizes))


def test_a_dead_letter_is_an_alarm_until_it_is_gone(stores: Stores) -> None:
    letters = DeadLetters(stores.home.dead_letters_dir)
    letters.write(Batch(Series("candle", SYMBOL, Timeframe.M1), bars(1), START_MS), "it was full")
    assert run(stores, rows_refused)["candle.dead_letters"] == 1
    assert finding(stores, rows_refused) == "candle: 1 dead letters wait, see 'trading replay --dry-run'"
    for letter in letters.letters():
        letters.discard(letter)
    shown = run(stores, rows_refused)
    assert shown["rows_written"] >= COUNT and shown["rows_a_second"] >= 0
    assert finding(stores, rows_refused) is None


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Run one command of `trading` and return its status and what it printed."""
    monkeypatch.setattr(sys, "argv", ["trading", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(str(end.value.code or 0)), capsys.readouterr().out


def test_dead_letters_are_listed_sent_again_and_counted_and_what_is_refused_again_stays(
    stores: Stores, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADING_HOME", str(stores.home.path))
    letters, rows = DeadLetters(stores.home.dead_letters_dir), bars(5)
    new = rows.with_columns(pl.col("open_time") - 5 * MINUTE_MS)
    assert told(capsys, monkeypatch, "replay") == (0, "There are no dead letters.\n")
    for symbol, batch in ((SYMBOL, rows), (SYMBOL, new), ("DOGEUSDT", rows)):
        letters.write(Batch(Series("candle", symbol, Timeframe.M1), batch, START_MS), "it was full\nDETAIL: of it")
    status, listed = told(capsys, monkeypatch, "replay", "--dry-run")
    assert status == 0 and "DOGEUSDT" in listed and "it was full" in listed and "DETAIL" not in listed
    status, line = told(capsys, monkeypatch, "replay", "--json")
    sent = json.loads(line.splitlines()[-1])
    (left,), refused = sent.pop("waiting"), sent.pop("refused")
    assert sent.pop("impossible") == {}
    assert refused.keys() == {"candle DOGEUSDT"} and "DOGEUSDT is not in this database" in refused["candle DOGEUSDT"]
    assert (status, sent) == (
        1,
        {"letters": 3, "rows": 15, "inserted": 5, "updated": 0, "not_needed": 5, "left": 5},
    )
    assert (left["symbol"], left["letters"], left["rows"]) == ("DOGEUSDT", 1, 5)
    stores.market.register([Instrument("sim", "DOGEUSDT", "DOGE", "USDT", 5, 0)])
    status, said = told(capsys, monkeypatch, "replay")
    assert (status, said) == (
        0,
        "5 rows of 1 letters: 5 inserted, 0 updated, 0 not needed any more, 0 refused again\n",
    )
    assert stores.market.counts(CANDLE)["1m"] == COUNT + 10
    RefusedRows(letters.refused_file).keep("trade", SYMBOL, [("not_positive", {"price": 0})])
    status, said = told(capsys, monkeypatch, "replay")
    assert said.startswith("1 rows cannot have happened and are not sent: trade BTCUSDT not_positive\n")
