"""Files for other programs hold what the stores hold, in the form that those programs document and read.

The same files were read back by freqtrade 2026.9, nautilus_trader 1.221.0 and hftbacktest 2.4.4 themselves; here their
documented schemas stand in for them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.formats import freqtrade, hftbacktest, nautilus
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_SNAPSHOT, CANDLE, TRADE
from resources.whole_file import FileNotWritten
from tests.synthetic import MARKET
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading_assets.cli.export import BadExport
from trading_assets.cli.export_as import FORMATS, BadFormat, export_as

SYMBOL = "FORMUSDT"
FORM = Instrument("sim", SYMBOL, "FORM", "USDT", 2, 5)
LO = 1_760_054_400_000
HI = LO + 2 * HOUR_MS
HOLE = LO + HOUR_MS + MINUTE_MS // 2
"""What ids prove ends here, in the middle of a minute."""

TRADES = MARKET.trades("BTCUSDT", LO, HI).sort("time_ms", maintain_order=True)
BARS = candles_from_trades(TRADES, FORM, Timeframe.M1, [(LO, HOLE)])
WHOLE = BARS.filter("complete")


def books(seconds: int) -> pl.DataFrame:
    """A book a second that wanders, so that levels come, change, go, and stand where the other side stood before."""
    rng, rows, mid = np.random.default_rng(1), [], 6_634_100
    for second in range(seconds):
        mid += int(rng.integers(-40, 41))
        bids, asks = mid - np.cumsum(rng.integers(1, 4, 20)), mid + np.cumsum(rng.integers(1, 4, 20))
        sizes = rng.integers(1, 4, (2, 20)) / 1e5
        levels = ((bids / 100).tolist(), sizes[0].tolist(), (asks / 100).tolist(), sizes[1].tolist())
        rows.append((LO + second * SECOND_MS + 900, second, *levels, None))
    return pl.DataFrame(rows, schema=BOOK_SNAPSHOT.schema, orient="row")


def test_freqtrade_candles_have_its_columns_types_and_name(tmp_path: Path) -> None:
    file = freqtrade.write_candles(tmp_path, FORM, WHOLE, Timeframe.M1, "feather")
    table = pa.feather.read_table(file)  # pyright: ignore
    assert file.name == "FORM_USDT-1m.feather"
    assert table.schema.names == ["date", "open", "high", "low", "close", "volume"]
    assert table.schema.field("date").type == pa.timestamp("ms", "UTC")
    assert all(table.schema.field(name).type == pa.float64() for name in table.schema.names[1:])
    rows = pl.DataFrame(table).with_columns(pl.col("date").dt.epoch("ms"))
    assert rows.rows() == WHOLE.select("open_time", "open", "high", "low", "close", "volume").rows()
    text = freqtrade.write_candles(tmp_path, FORM, WHOLE, Timeframe.M1, "json")
    assert [tuple(row) for row in json.loads(text.read_text())] == rows.rows()


def test_freqtrade_trades_have_its_columns_in_its_order(tmp_path: Path) -> None:
    file = freqtrade.write_trades(tmp_path, FORM, TRADES, "feather")
    rows = pl.DataFrame(pa.feather.read_table(file))  # pyright: ignore
    assert file.name == "FORM_USDT-trades.feather"
    assert rows.columns == ["timestamp", "id", "type", "side", "price", "amount", "cost"]
    assert rows["timestamp"].equals(TRADES["time_ms"]) and rows["id"].cast(pl.Int64).equals(TRADES["agg_trade_id"])
    assert rows["side"].to_list() == ["sell" if maker else "buy" for maker in TRADES["buyer_is_maker"]]
    assert rows["price"].to_list() == [ticks / 100 for ticks in TRADES["price"]]
    assert rows["amount"].to_list() == [lots / 100_000 for lots in TRADES["quantity"]]


def whole(value: bytes) -> int:
    return int.from_bytes(value, "little", signed=True)


def test_nautilus_bars_are_exact_and_known_at_their_close(tmp_path: Path) -> None:
    file = nautilus.write_bars(tmp_path, FORM, WHOLE, Timeframe.M1)
    bar_type = "FORMUSDT.SIM-1-MINUTE-LAST-EXTERNAL"
    assert file.parent == tmp_path / "data" / "bar" / bar_type
    assert file.name.startswith("2025-10-10T00-01-00-000000000Z_2025-10-10T0")
    table = pq.read_table(file)
    assert table.schema.remove_metadata() == pa.schema(
        [pa.field(name, pa.binary(16), nullable=False) for name in ("open", "high", "low", "close", "volume")]
        + [pa.field(name, pa.uint64(), nullable=False) for name in ("ts_event", "ts_init")]
    )
    told = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
    assert told == {
        "bar_type": bar_type, "instrument_id": "FORMUSDT.SIM", "price_precision": "2", "size_precision": "5"
    }  # fmt: skip
    for row, bar in zip(table.to_pylist(), WHOLE.iter_rows(named=True), strict=True):
        assert row["ts_event"] == row["ts_init"] == (bar["open_time"] + MINUTE_MS) * 10**6
        assert whole(row["close"]) == round(bar["close"] * 100) * 10**14
        assert whole(row["volume"]) == round(bar["volume"] * 10**5) * 10**11


def test_nautilus_trades_are_exact(tmp_path: Path) -> None:
    table = pq.read_table(nautilus.write_trades(tmp_path, FORM, TRADES))
    assert table.schema.names == ["price", "size", "aggressor_side", "trade_id", "ts_event", "ts_init"]
    for row, trade in zip(table.to_pylist(), TRADES.iter_rows(named=True), strict=True):
        assert whole(row["price"]) == trade["price"] * 10**14 and whole(row["size"]) == trade["quantity"] * 10**11
        assert row["aggressor_side"] == (2 if trade["buyer_is_maker"] else 1)
        assert (row["trade_id"], row["ts_init"]) == (str(trade["agg_trade_id"]), trade["time_ms"] * 10**6)


def test_a_catalog_never_gets_the_same_time_twice(tmp_path: Path) -> None:
    nautilus.write_bars(tmp_path, FORM, WHOLE.head(20), Timeframe.M1)
    nautilus.write_bars(tmp_path, FORM, WHOLE.head(20), Timeframe.M1)
    nautilus.write_bars(tmp_path, FORM, WHOLE[20:40], Timeframe.M1)
    with pytest.raises(nautilus.CatalogHolds, match="part of the same time"):
        nautilus.write_bars(tmp_path, FORM, WHOLE[10:30], Timeframe.M1)
    assert len(list((tmp_path / "data" / "bar").rglob("*.parquet"))) == 2


def test_hftbacktest_events_rebuild_every_book_and_no_book_between_is_crossed(tmp_path: Path) -> None:
    snapshots = books(300)
    path = hftbacktest.write(tmp_path / "a.npz", hftbacktest.events(TRADES, snapshots, FORM))
    events = np.load(path)["data"]
    assert events.dtype.names == ("ev", "exch_ts", "local_ts", "px", "qty", "order_id", "ival", "fval")
    assert events.dtype.itemsize == 64 and np.all(np.diff(events["exch_ts"]) >= 0)
    assert np.all(events["local_ts"] == events["exch_ts"]) and np.all(events["ev"] >> 30 == 3)
    depth = events[np.isin(events["ev"] & 0xFF, (1, 4))]
    sides: dict[bool, dict[float, float]] = {True: {}, False: {}}
    place = 0
    for row in snapshots.iter_rows(named=True):
        while place < len(depth) and depth["exch_ts"][place] <= row["time_ms"] * 10**6:
            is_bid, price, quantity = bool(depth["ev"][place] >> 29 & 1), depth["px"][place], depth["qty"][place]
            sides[is_bid][price] = quantity
            if not quantity:
                del sides[is_bid][price]
            if sides[True] and sides[False]:
                assert max(sides[True]) < min(sides[False])
            place += 1
        assert sides[True] == dict(zip(row["bid_price"], row["bid_quantity"], strict=True))
        assert sides[False] == dict(zip(row["ask_price"], row["ask_quantity"], strict=True))
    traded = events[events["ev"] & 0xFF == 2]
    assert (traded["px"] * 100).round().astype(int).tolist() == TRADES["price"].to_list()
    assert (traded["ev"] >> 28 & 3).tolist() == [1 if maker else 2 for maker in TRADES["buyer_is_maker"]]


@pytest.fixture(scope="module")
def stored(market: MarketStore) -> MarketStore:
    market.register([FORM])
    market.write(TRADE, SYMBOL, TRADES, LO, HI)
    market.write(CANDLE, SYMBOL, BARS, LO, HI, Timeframe.M1)
    market.write(BOOK_SNAPSHOT, SYMBOL, books(30), LO, HI)
    return market


@pytest.mark.parametrize(("form", "dataset"), [(form, dataset) for form, held in FORMATS.items() for dataset in held])
def test_each_format_is_written_from_the_stores(stored: MarketStore, tmp_path: Path, form: str, dataset: str) -> None:
    out = tmp_path / "a.npz" if form == "hftbacktest" else tmp_path
    told = export_as(form, stored, dataset, SYMBOL, "1m", (LO, HI), out)
    assert Path(told["file"]).is_file()
    rows = (len(WHOLE), len(BARS) - len(WHOLE)) if dataset == "candles" else (len(TRADES), 0)
    assert (told["rows"], told["left_out"]) == rows and (dataset == "agg_trades" or rows[1] > 9)
    assert told.get("books", 30) == 30


@pytest.mark.parametrize(
    ("form", "dataset", "timeframe", "hi_ms", "kind", "said"),
    [
        ("excel", "candles", "1m", HI, BadFormat, "freqtrade"),
        ("hftbacktest", "candles", "1m", HI, BadFormat, "agg_trades"),
        ("nautilus", "features", "", HI, BadFormat, "candles and agg_trades"),
        ("freqtrade", "candles", "7m", HI, BadExport, "1m"),
        ("freqtrade", "candles", "1m", LO, BadFormat, "another"),
        ("freqtrade", "agg_trades", "", LO, BadFormat, "another"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_what_it_can(
    stored: MarketStore, tmp_path: Path, form: str, dataset: str, timeframe: str, hi_ms: int, kind: Any, said: str
) -> None:
    with pytest.raises(kind) as refusal:
        export_as(form, stored, dataset, SYMBOL, timeframe, (LO, hi_ms), tmp_path)
    assert said in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(stored: MarketStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotWritten, match="absent"):
        export_as("freqtrade", stored, "candles", SYMBOL, "1m", (LO, HI), tmp_path / "absent")
