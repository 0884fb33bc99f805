"""Klines beside the trades they sum: real ones agree, and whatever is changed in one is named."""

import json

import msgspec
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from resources.simulator.klines import minute_sums
from resources.simulator.recording import Recording
from tests.captures import feed
from tests.recorded import recorded
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange
from trading.stream.events import Kline, decode_event
from trading.stream.klines import MOST_WAITING, KlineCheck, differences

START_MS = 1_760_000_040_000
NUMBERS = ("open", "high", "low", "close", "volume", "taker_buy_volume", "trades")

a_trade = st.tuples(st.integers(1, 1000), st.integers(0, 1000), st.integers(0, 3), st.booleans())


def traded(parts: list[tuple[int, int, int, bool]]) -> pl.DataFrame:
    trades, fill = [], 0
    for number, (price, quantity, more, sold) in enumerate(parts):
        trades.append(AggTrade(number, price, quantity, fill, fill + more, START_MS + number, sold))
        fill += more + 1
    return trades_frame(trades)


def kline(row: dict[str, int], closed: bool = True) -> Kline:
    prices = [row[name] for name in ("open", "high", "low", "close")]
    volumes = (row["volume"], row["taker_volume"], row["trade_count"])
    return Kline("1m", row["open_time"], row["open_time"] + MINUTE_MS - 1, *prices, *volumes, closed)


@given(st.lists(a_trade, min_size=1, max_size=20), st.sets(st.sampled_from(NUMBERS)), st.integers(1, 10**6))
def test_exactly_what_a_kline_says_otherwise_is_named(
    parts: list[tuple[int, int, int, bool]], changed: set[str], by: int
) -> None:
    trades = traded(parts)
    honest = kline(minute_sums(trades).row(0, named=True))
    told = msgspec.structs.replace(honest, **{name: getattr(honest, name) + by for name in changed})
    assert differences(honest, trades) == {}
    found = differences(told, trades)
    assert found == {name: (getattr(honest, name) + by, getattr(honest, name)) for name in changed}


def test_a_minute_without_a_trade_repeats_a_price_and_sums_to_nothing() -> None:
    empty = Kline("1m", START_MS, START_MS + MINUTE_MS - 1, 5, 5, 5, 5, 0, 0, 0, closed=True)
    assert differences(empty, traded([])) == {}
    assert differences(msgspec.structs.replace(empty, volume=1), traded([])) == {"volume": (1, 0)}


def test_what_a_venue_does_not_count_is_not_compared() -> None:
    row = minute_sums(traded([(5, 1, 0, True)])).row(0, named=True)
    uncounted = msgspec.structs.replace(kline(row), trades=None, taker_buy_volume=None)
    assert differences(uncounted, traded([(5, 1, 3, False)])) == {}


def test_it_waits_for_the_proof_and_is_compared_once_though_two_connections_bring_it() -> None:
    check, row = KlineCheck(), minute_sums(traded([(5, 1, 0, True)])).row(0, named=True)
    end_ms = row["open_time"] + MINUTE_MS
    check.take("BTCUSDT", kline(row, closed=False))
    assert check.proven({"BTCUSDT": [IdRange(0, 9, 0, end_ms)]}) == []
    check.take("BTCUSDT", kline(row))
    assert check.proven({}) == []
    assert check.proven({"BTCUSDT": [IdRange(0, 9, 0, end_ms - 1)]}) == []
    assert check.proven({"BTCUSDT": [IdRange(0, 9, row["open_time"] + 1, end_ms)]}) == []
    # A hole in the minute, of ids that the exchange does not have, leaves it unproven for ever.
    parts = [IdRange(0, 3, 0, row["open_time"] + 9), IdRange(5, 9, row["open_time"] + 10, end_ms)]
    assert check.proven({"BTCUSDT": parts}) == []
    assert check.proven({"BTCUSDT": [IdRange(0, 9, row["open_time"], end_ms)]}) == [("BTCUSDT", kline(row))]
    check.take("BTCUSDT", kline(row))
    assert check.proven({"BTCUSDT": [IdRange(0, 9, 0, end_ms)]}) == []


def test_klines_that_are_never_proven_are_forgotten_in_the_end() -> None:
    check, row = KlineCheck(), minute_sums(traded([(5, 1, 0, True)])).row(0, named=True)
    for n in range(MOST_WAITING + 3):
        check.take("BTCUSDT", kline(row | {"open_time": START_MS + n * MINUTE_MS}))
    assert check.forgotten == 3
    proven = check.proven({"BTCUSDT": [IdRange(0, 9, 0, 2**50)]})
    assert len(proven) == MOST_WAITING and proven[0][1].open_time_ms == START_MS + 3 * MINUTE_MS


def test_the_klines_of_another_program_agree_with_real_trades(tmp_path) -> None:
    """The candles name neither fills nor who bought."""
    (tmp_path / "aggTrades").mkdir()
    name = "XRPETH_spot_20191011_20191013.rest.jsonl.gz"
    (tmp_path / "aggTrades" / name).symlink_to(recorded(f"aggtrades/{name}"))
    recording = Recording(tmp_path)
    steps, trades = recording.instrument("XRPETH"), recording.trades("XRPETH", 0, 2**50)
    candles = pl.read_ipc(recorded("klines/binance_spot/XRP_ETH-1m.feather"))
    opened_ms = candles["date"].dt.epoch("ms").to_list()
    minutes = {key[0]: part for key, part in trades.group_by(pl.col("time_ms") // MINUTE_MS, maintain_order=True)}
    for at_ms, *prices, volume in zip(opened_ms, *(candles[n].to_list() for n in NUMBERS[:5]), strict=True):
        ticks = [round(price * 10**steps.price_decimals) for price in prices]
        lots = round(volume * 10**steps.quantity_decimals)
        said = Kline("1m", at_ms, at_ms + MINUTE_MS - 1, *ticks, lots, None, None, closed=True)
        assert differences(said, minutes[at_ms // MINUTE_MS]) == {}
    assert len(opened_ms) == 2_469


def test_real_klines_off_the_wire_agree_with_the_real_trades_beside_them() -> None:
    """In the 17 s of a minute that were recorded from its start, each kline is compared with what it sums so far."""
    contracts = {
        name: Instrument("binance", name, name[:-4], "USDT", price, lots, "usdm")
        for name, price, lots in (("SUSHIUSDT", 3, 0), ("CTKUSDT", 5, 0), ("KEEPUSDT", 4, 0), ("AKROUSDT", 5, 0))
    }
    trades: dict[str, list[AggTrade]] = {name: [] for name in contracts}
    klines: list[tuple[str, Kline, int]] = []
    for _, _, frame in feed("raw/cryptofeed/BINANCE_FUTURES.ws.1.0.gz"):
        decoded = decode_event(frame, contracts, 0)
        if isinstance(decoded, tuple):
            symbol, event = decoded
            if isinstance(event, AggTrade):
                trades[symbol].append(event)
            elif isinstance(event, Kline):
                klines.append((symbol, event, json.loads(frame)["data"]["k"]["L"]))
    minute_ms = 1_626_992_760_000
    assert {event.open_time_ms for _, event, _ in klines if not event.closed} == {minute_ms - MINUTE_MS, minute_ms}
    compared = 0
    for symbol, event, last_fill in klines:
        summed = [t for t in trades[symbol] if t.time_ms >= minute_ms and t.last_trade_id <= last_fill]
        # One that was sent in the middle of an aggregate trade, or after the last that was recorded, sums another part.
        if event.open_time_ms == minute_ms and summed and summed[-1].last_trade_id == last_fill:
            assert differences(event, trades_frame(summed)) == {}
            compared += len(summed)
    assert compared > 100


def test_the_newest_form_of_a_futures_kline_counts_fewer_trades_than_its_ids_span() -> None:
    """So on futures a count that differs is a finding of the exchange's, not a proof that a trade is missing."""
    frames = recorded("raw/binance_usdm_2026/frames_2026-08-08.jsonl").read_text(encoding="utf-8").splitlines()
    (sums,) = [json.loads(text)["data"]["k"] for text in frames if "@kline_1m" in text]
    assert sums["n"] == 194 and sums["L"] - sums["f"] + 1 == 202
