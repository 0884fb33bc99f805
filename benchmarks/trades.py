"""Trades from the wire into the journal and out of it again, and what a trade takes on disk.

Sizes are those of RocksDB's tables after compaction, so keys, checksums and indices count. A batch holds the trades of one
second and at least ten, for below that its key and header are most of it. Where genuine captures lie beside the checkout
they are measured too, and the worst of all is the answer; each is beside Parquet of the same columns and names its rate.
A source that is not named was not there.
"""

import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow.parquet as pq

from benchmarks.candles import INSTRUMENT
from benchmarks.candles import trades as synthetic_trades
from benchmarks.comparison import OURS, Comparison, Measure, UnequalResults, compare
from resources.journal import TradeJournal
from resources.rocksdb import Database, family
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, SECOND_MS
from trading.market.trade import TRADE_SCHEMA, AggTrade
from trading.stream import wire
from trading.stream.scanner import Scanner

CAPTURES = Path(__file__).resolve().parents[2] / "shared" / "data"
A_DAY = 14 * DAY_MS // SECOND_MS
LEAST_IN_A_BATCH = 10
SYMBOL = INSTRUMENT.name
TOGETHER = 1_000
"""Frames that are read at once: the socket brings up to 256 KiB at a time, and a busy collector takes thousands."""


# -- sources -------------------------------------------------------------------------------------------------------------


def sources(day: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the name and the trades of the synthetic market, and of each genuine capture that is there."""
    yield "synthetic", day
    spot = CAPTURES / "raw" / "binance_spot"
    if spot.is_dir():
        yield "btcusdt", _aggregated([spot / "btcusdt_20240808.gz", spot / "btcusdt_20240809.gz"])
    rest = CAPTURES / "aggtrades" / "XRPETH_spot_20191011_20191013.rest.jsonl.gz"
    if rest.is_file():
        yield "xrpeth", _from_rest(rest)


def _aggregated(files: list[Path]) -> pl.DataFrame:
    """Return captured fills merged as the exchange merges them: one time, price and side, consecutive fill ids."""
    merged: list[list[Any]] = []
    for file in files:
        with gzip.open(file, "rt") as lines:
            for line in lines:
                if '"e":"trade"' in line:
                    fill = json.loads(line.partition(" ")[2])["data"]
                    price, lots = INSTRUMENT.ticks(fill["p"]), INSTRUMENT.lots(fill["q"])
                    last = merged[-1] if merged else [None] * 7
                    if [last[1], last[4], *last[5:]] == [price, fill["t"] - 1, fill["T"], fill["m"]]:
                        last[2] += lots
                        last[4] = fill["t"]
                    else:
                        merged.append([len(merged), price, lots, fill["t"], fill["t"], fill["T"], fill["m"]])
    return pl.DataFrame(merged, schema=TRADE_SCHEMA, orient="row")


def _from_rest(file: Path) -> pl.DataFrame:
    instrument = Instrument("binance", "XRPETH", "XRP", "ETH", 8, 0)
    with gzip.open(file, "rt") as lines:
        rows = [
            (t["a"], instrument.ticks(t["p"]), instrument.lots(t["q"]), t["f"], t["l"], t["T"], t["m"])
            for t in map(json.loads, lines)
        ]
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


# -- the journal ---------------------------------------------------------------------------------------------------------


@contextmanager
def _journal(trades: pl.DataFrame, sealed: bool) -> Iterator[TradeJournal]:
    """Keep trades in a journal, in seconds or sealed hours, compacted."""
    with tempfile.TemporaryDirectory() as folder, TradeJournal.write(Path(folder)) as journal:
        for part in trades.with_columns(hour=pl.col("time_ms") // HOUR_MS).partition_by("hour", include_key=False):
            journal.append({SYMBOL: [AggTrade(*row) for row in part.rows()]}, {})
            if sealed:
                journal.seal(SYMBOL, int(part["time_ms"][0]) // HOUR_MS * HOUR_MS)
        journal.compact()
        yield journal


def _stored(trades: pl.DataFrame, sealed: bool) -> int:
    with _journal(trades, sealed) as journal:
        return sum(table.stat().st_size for table in (journal.directory / "live").glob("*.sst"))


def _in_parquet(trades: pl.DataFrame) -> int:
    """Return the size of one Parquet file: zstd, differences bit-packed, as integers are written best."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trades.parquet"
        encoding = {name: "DELTA_BINARY_PACKED" for name, kind in TRADE_SCHEMA.items() if kind == pl.Int64}
        table = trades.to_arrow()
        pq.write_table(
            table, file, compression="zstd", compression_level=9, use_dictionary=False, column_encoding=encoding
        )
        return file.stat().st_size


def _a_trade(trades: pl.DataFrame, size: Callable[[pl.DataFrame], int]) -> float:
    """Return bytes of each trade after the first: what a file takes however little it holds is not theirs."""
    return round((size(trades) - size(trades.head(1))) / (len(trades) - 1), 2)


def _sizes(day: pl.DataFrame) -> Iterator[Measure]:
    worst = {"hot": (0.0, ""), "sealed": (0.0, "")}
    for name, trades in sources(day):
        span_s = (trades["time_ms"].max() - trades["time_ms"].min()) / SECOND_MS
        rate = f"{name}, {len(trades):,} trades, {len(trades) / span_s:.2f} a second"
        yield Measure(f"trades_per_second_{name}", round(len(trades) / span_s, 2), "trades/s", "mean rate of a source")
        a_second = pl.len().over(pl.col("time_ms") // SECOND_MS)
        busy = trades.filter(a_second >= LEAST_IN_A_BATCH)
        yield Measure(f"bytes_per_trade_parquet_{name}", _a_trade(trades, _in_parquet), "B", rate)
        for form, kept in (("hot", busy), ("sealed", trades)):
            if len(kept) * LEAST_IN_A_BATCH < len(trades):
                continue  # a market this quiet has no busy seconds to speak of
            size = _a_trade(kept, partial(_stored, sealed=form == "sealed"))
            worst[form] = max(worst[form], (size, rate))
            yield Measure(f"bytes_per_trade_{form}_{name}", size, "B", rate)
    for form, (size, rate) in worst.items():
        yield Measure(f"bytes_per_trade_{form}", size, "B", f"the worst: {rate}")


# -- the naive way: rows of dictionaries -----------------------------------------------------------------------------------


@contextmanager
def _rows(trades: pl.DataFrame) -> Iterator[Callable[[], pl.DataFrame]]:
    """Keep a list of dictionaries a second, as one writes it first, and yield what reads them all."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Database.write(Path(folder), "rows", {"rows": family(3, 16 * 2**10)}) as database,
    ):
        seconds = trades.with_columns(second=pl.col("time_ms") // SECOND_MS * SECOND_MS)
        changes = database.changes()
        for second in seconds.partition_by("second", maintain_order=True):
            start_ms = second["second"][0]
            changes.put("rows", f"{start_ms:013d}".encode(), msgspec.msgpack.encode(second.drop("second").to_dicts()))
        database.commit(changes)
        database.compact()

        def read() -> pl.DataFrame:
            found: list[dict[str, Any]] = []
            for _, value in database.scan("rows", b"0", b"9"):
                found += msgspec.msgpack.decode(value)
            return pl.DataFrame(found, schema=TRADE_SCHEMA)

        yield read


def _reading(day: pl.DataFrame) -> Iterator[Comparison | Measure]:
    lo_ms, slowest = int(day["time_ms"][0]) // HOUR_MS * HOUR_MS, 0.0
    with _rows(day) as rows, _journal(day, sealed=False) as hot, _journal(day, sealed=True) as sealed:
        for name, journal in (("read_hot", hot), ("read_sealed", sealed)):
            compared = compare(
                name,
                len(day),
                "trades",
                {OURS: lambda journal=journal: journal.trades(SYMBOL, lo_ms, lo_ms + DAY_MS), "rows": rows},
                lambda ours, other: ours.equals(other),
                rounds=5,
            )
            yield compared
            note = f"{len(day):,} trades as a frame, {name.removeprefix('read_')}"
            yield Measure(f"{name}_24h_s", round(compared.seconds[OURS], 3), "s", note)
            slowest = max(slowest, compared.seconds[OURS])
    yield Measure("read_24h_s", round(slowest, 3), "s", "the slower of hot and sealed")


# -- retention ---------------------------------------------------------------------------------------------------------


def _retention(day: pl.DataFrame) -> Iterator[Comparison | Measure]:
    """Drop the batches of the last twelve hours but one, at once and key by key, and for its cost those of one hour."""
    edge_ms = int(day["time_ms"][-1]) // HOUR_MS * HOUR_MS
    seconds: dict[str, float] = {}
    for way, hours in (("one hour", 1), ("keys", 12), (OURS, 12)):
        with _journal(
            day.filter(pl.col("time_ms").is_between(edge_ms - hours * HOUR_MS, edge_ms - 1)), False
        ) as journal:
            batches = journal.seconds(SYMBOL)
            journal.sync()  # of what was written before; a sync that falls due meanwhile counts for either
            start = time.perf_counter()
            if way == "keys":
                for second_ms in batches:
                    journal.delete_batch(SYMBOL, second_ms)
            else:
                journal.retire(SYMBOL, edge_ms)
            seconds[way] = time.perf_counter() - start
            if len(journal.trades(SYMBOL, 0, edge_ms)):
                raise UnequalResults(f"retention: {way} left trades")
    yield Measure("retention_1h_ms", round(seconds.pop("one hour") * 1e3, 2), "ms", "at once")
    yield Measure("retention_12h_ms", round(seconds[OURS] * 1e3, 2), "ms", "at once")
    yield Comparison("retention", len(batches), "batches", seconds)


# -- parsing -----------------------------------------------------------------------------------------------------------


def _frames(trades: pl.DataFrame) -> list[str]:
    """Return trades as the exchange sends them."""
    return [
        json.dumps(
            {
                "stream": f"{SYMBOL.lower()}@aggTrade",
                "data": {
                    "e": "aggTrade",
                    "E": time_ms + 2,
                    "s": SYMBOL,
                    "a": number,
                    "p": INSTRUMENT.price_text(price),
                    "q": INSTRUMENT.quantity_text(lots),
                    "f": first,
                    "l": last,
                    "T": time_ms,
                    "m": maker,
                    "M": True,
                },
            },
            separators=(",", ":"),
        )
        for number, price, lots, first, last, time_ms, maker in trades.rows()
    ]


def _parsing(day: pl.DataFrame) -> Iterator[Comparison]:
    """Compare with json and floats, which are not exact: frames that come together, and each alone."""
    texts, instruments = _frames(day.head(10_000)), {SYMBOL: INSTRUMENT}
    frames, scanner = [text.encode() for text in texts], Scanner(instruments)

    def together() -> list[AggTrade]:
        found: list[AggTrade] = []
        for start in range(0, len(frames), TOGETHER):
            found += [trade for symbol, trade in scanner.read(frames[start : start + TOGETHER]) if symbol]
        return found

    def alone() -> list[AggTrade]:
        return [decoded[1] for frame in frames if (decoded := wire.decode(frame, instruments, 0))]

    def in_json() -> list[Any]:
        found = []
        for text in texts:
            event = json.loads(text)["data"]
            found.append(
                (event["a"], float(event["p"]), float(event["q"]), event["f"], event["l"], event["T"], event["m"])
            )
        return found

    def same(one: list[AggTrade], other: list[Any]) -> bool:
        if one == other:
            return True
        floats = [
            (
                t.agg_trade_id,
                INSTRUMENT.price(t.price),
                INSTRUMENT.quantity(t.quantity),
                *msgspec.structs.astuple(t)[3:],
            )
            for t in one
        ]
        return floats == other

    for name, ours in (("parse", together), ("parse_alone", alone)):
        yield compare(name, len(frames), "frames", {OURS: ours, "json": in_json}, same, rounds=21)


def comparisons(count: int = A_DAY) -> Iterator[Comparison | Measure]:
    """Yield each comparison and measure as it is done, of a day at 14 trades a second or of some of its trades."""
    day = synthetic_trades(A_DAY)
    day = day.slice((A_DAY - count) // 2, count)
    yield from _parsing(day)
    yield from _sizes(day)
    yield from _reading(day)
    yield from _retention(day)
