"""A recorded market: a folder of trades, klines and frames off the wire, played back with its own clock.

It serves what was recorded and nothing else: a bar that is missing stays missing, and only recorded intervals are
known. Where only trades were recorded, klines are their sums; a bar that a missing id may belong to is not served. A
stream whose frames were recorded is those frames (`capture.py`).
"""

import gzip
import hashlib
import io
import re
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import polars as pl

from resources.simulator.capture import BadFile, Capture, kind_of
from resources.simulator.klines import longer, minute_sums
from resources.simulator.market import Event, NotRecorded
from resources.simulator.recorded_book import RecordedBook
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.market.trade import TRADE_SCHEMA

EDGE: Final = Timeframe.H4
"""The recording's clock ends on this edge after its last event, so that the last bars have closed."""

TABLES: Final = ("aggTrades", "klines")
WIRE: Final = "wire"
QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
REST_FIELDS: Final = {"a": "agg_trade_id", "p": "price", "q": "quantity", "f": "first_trade_id", "l": "last_trade_id"}
REST_FIELDS |= {"T": "time_ms", "m": "buyer_is_maker"}
FILL_FIELDS: Final = {"t": "trade_id", "p": "price", "q": "quantity", "T": "time_ms", "m": "buyer_is_maker"}
ARCHIVE_COLUMNS: Final = (*list(REST_FIELDS.values()), "best_match")
KLINE_COLUMNS: Final = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "trade_count",
)
TIME_NAMES: Final = ("open_time", "date", "timestamp", "time")


class BadRecording(TradingError):
    """A recording is absent or damaged."""


class Recording:
    """The recorded markets of a folder.

    Args:
        folder: Holds any of `aggTrades/{SYMBOL}*.{csv,jsonl}[.gz]`, `klines/{SYMBOL}-{interval}.{csv,parquet,feather}[.gz]`
            and frames in `wire/`.
        kind: `spot`, or `usdm` for the frames of futures.

    Raises:
        BadRecording: The folder holds none, or a file is damaged.
    """

    def __init__(self, folder: Path, kind: str = "spot") -> None:
        if not folder.is_dir():
            raise BadRecording(f"--recording {folder} is no folder", "give one with aggTrades/, klines/ or wire/ in it")
        self._folder, self.kind = folder, kind
        self._trades: dict[str, pl.DataFrame] = {}
        self._klines: dict[tuple[str, Timeframe], pl.DataFrame] = {}
        self._holes: dict[str, list[tuple[int, int]]] = {}
        self._instruments: dict[str, Instrument] = {}
        self._fills: dict[str, pl.DataFrame] = {}
        self._books: dict[str, RecordedBook] = {}
        self.capture = _capture(folder, kind)
        self._read()
        self.symbols = tuple(sorted(self._instruments))
        edges = [(int(f["time_ms"][0]), int(f["time_ms"][-1])) for f in self._trades.values() if len(f)]
        edges += [(int(f["open_time"][0]), int(f["open_time"][-1]) + t.ms - 1) for (_, t), f in self._klines.items()]
        edges += [self.capture.span] if self.capture.frames else []
        self.start_ms = min(first for first, _ in edges)
        self.end_ms = EDGE.ceil(max(last for _, last in edges) + 1)

    @property
    def has_trades(self) -> bool:
        """Whether any trades were recorded."""
        return bool(self._trades)

    def digest(self) -> str:
        """Return SHA-256 over the names and bytes of all files."""
        digest = hashlib.sha256()
        for file in self._files(*TABLES, WIRE):
            digest.update(file.relative_to(self._folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def instrument(self, symbol: str) -> Instrument:
        """Return one symbol's instrument; its steps are the finest that the recording has."""
        return self._instruments[symbol]

    def intervals(self, symbol: str) -> tuple[Timeframe, ...]:
        """Return the timeframes of which there are klines."""
        recorded = tuple(t for t in Timeframe if (symbol, t) in self._klines)
        return recorded or tuple(Timeframe)[1:]

    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the trades with time in `[lo_ms, hi_ms)` as `TRADE_SCHEMA`, by id."""
        frame = self._trades.get(symbol, pl.DataFrame(schema=TRADE_SCHEMA))
        return frame.filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def trades_by_id(self, symbol: str, from_id: int, limit: int) -> pl.DataFrame:
        """Return up to `limit` trades with ids from `from_id` on."""
        frame = self._trades.get(symbol, pl.DataFrame(schema=TRADE_SCHEMA))
        return frame.filter(pl.col("agg_trade_id") >= from_id).head(limit)

    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the bars opening in `[lo_ms, hi_ms)`: prices in ticks, volume in lots."""
        if (symbol, timeframe) in self._klines:
            bars = self._klines[symbol, timeframe]
        else:
            bars = longer(minute_sums(self.trades(symbol, timeframe.floor(lo_ms), timeframe.ceil(hi_ms))), timeframe)
            for before_ms, after_ms in self._holes.get(symbol, ()):
                bars = bars.filter((pl.col("open_time") + timeframe.ms <= before_ms) | (pl.col("open_time") > after_ms))
        return bars.filter((pl.col("open_time") >= lo_ms) & (pl.col("open_time") < hi_ms))

    def frames(self, stream: str, lo_ms: int, hi_ms: int) -> list[Event] | None:
        """Return the recorded frames of a stream in `[lo_ms, hi_ms)`, or None where none of it was ever recorded."""
        events = self.capture.frames.get(stream)
        if events is None:
            return None
        first, last = (bisect_left(events, at, key=lambda event: event.time_ms) for at in (lo_ms, hi_ms))
        return events[first:last]

    def fills(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the recorded fills with time in `[lo_ms, hi_ms)`."""
        if symbol not in self._fills:
            raise NotRecorded(f"no single trades of {symbol} were recorded")
        return self._fills[symbol].filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def book(self, symbol: str) -> RecordedBook:
        """Return one symbol's order book."""
        if symbol not in self._books:
            raise NotRecorded(f"no order book of {symbol} was recorded")
        return self._books[symbol]

    def derivatives(self, symbol: str) -> NoReturn:
        """Refuse: no funding nor open interest is recorded."""
        raise NotRecorded(f"neither funding nor open interest of {symbol} was recorded")

    def _files(self, *names: str) -> list[Path]:
        return sorted(f for name in names for f in (self._folder / name).glob("*") if f.is_file())

    def _read(self) -> None:
        texts: dict[str, list[pl.DataFrame]] = {}
        bars: dict[tuple[str, Timeframe], pl.DataFrame] = {}
        for file in self._files(*TABLES) if self.kind == "spot" else ():
            symbol = re.sub(r"[_/]", "", _stem(file).split("-")[0].upper())
            if file.parent.name == "aggTrades":
                symbol = re.match(r"[A-Z0-9]+", _stem(file).upper()).group(0)  # pyright: ignore[reportOptionalMemberAccess]
                texts.setdefault(symbol, []).append(_guarded(file, _trade_texts))
            else:
                bars[symbol, _interval(file)] = _guarded(file, _kline_floats)
        for symbol in self.capture.symbols() - texts.keys():
            trades = _captured(self.capture.agg_trades, symbol).rename(REST_FIELDS).select(list(TRADE_SCHEMA))
            texts[symbol] = [trades] if len(trades) else []
        for symbol in sorted({*texts, *(name for name, _ in bars)}):
            self._take(symbol, texts.get(symbol, []), {t: f for (name, t), f in bars.items() if name == symbol})
        if not self._instruments:
            raise BadRecording(f"{self._folder} holds no recording", "put files into aggTrades/, klines/ or wire/")

    def _take(self, symbol: str, texts: list[pl.DataFrame], bars: dict[Timeframe, pl.DataFrame]) -> None:
        frame = pl.concat(texts) if texts else None
        fills = _captured(self.capture.fills, symbol).rename(FILL_FIELDS)
        told = [one for one in (frame, fills) if one is not None and len(one)]
        prices, lots = ([_decimals(one[name]) for one in told] for name in ("price", "quantity"))
        for bar in bars.values():
            prices += [_decimals(bar[name].cast(pl.String)) for name in ("open", "high", "low", "close")]
            lots.append(_decimals(bar["volume"].cast(pl.String)))
        base, quote = _split(symbol)
        written = self.capture.written_decimals(symbol)
        if written is not None:
            book = Instrument("sim", symbol, base, quote, *written, self.kind)
            self._books[symbol] = RecordedBook(self.capture, book)
            prices, lots = prices or [written[0]], lots or [written[1]]
        instrument = Instrument("sim", symbol, base, quote, max(prices, default=0), max(lots, default=0), self.kind)
        self._instruments[symbol] = instrument
        if len(fills):
            self._fills[symbol] = _numbered(symbol, fills, instrument, FILL_FIELDS["t"])
        if frame is not None:
            self._trades[symbol] = _numbered(symbol, frame, instrument).cast(TRADE_SCHEMA)  # pyright: ignore[reportArgumentType]
            self._holes[symbol] = _holes(self._trades[symbol])
        for timeframe, bar in bars.items():
            self._klines[symbol, timeframe] = _in_units(bar, instrument)


def recordings(folder: Path) -> list[Recording]:
    """Return a recording of each kind that a folder holds; raises `BadRecording`."""
    kinds = {kind_of(file) for file in (folder / WIRE).glob("*")}
    spot = not kinds or "spot" in kinds or any((folder / name).is_dir() for name in TABLES)
    return [Recording(folder, kind) for kind, there in (("spot", spot), ("usdm", "usdm" in kinds)) if there]


def _capture(folder: Path, kind: str) -> Capture:
    """Return the frames of one kind; a file that does not tell its own is taken for spot."""
    try:
        return Capture([file for file in sorted((folder / WIRE).glob("*")) if (kind_of(file) or "spot") == kind])
    except BadFile as error:
        raise BadRecording(str(error), "replace the file") from None


def _captured(read: Callable[[str], pl.DataFrame], symbol: str) -> pl.DataFrame:
    try:
        return read(symbol)
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BadRecording(f"a recorded trade of {symbol} has no number: {reason}", "replace the file") from None


def _guarded(file: Path, read: Callable[[Path], pl.DataFrame]) -> pl.DataFrame:
    try:
        frame = read(file)
    except BadRecording:
        raise
    except (pl.exceptions.PolarsError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BadRecording(f"{file} is damaged: {reason}", "replace the file") from None
    if frame.is_empty():
        raise BadRecording(f"{file} holds no rows", "replace or remove the file")
    return frame


def _bytes(file: Path) -> bytes:
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if not content.strip():
        raise BadRecording(f"{file} holds no rows", "replace or remove the file")
    return content


def _stem(file: Path) -> str:
    return re.sub(r"\.(csv|jsonl|rest|parquet|feather|gz)", "", file.name)


def _interval(file: Path) -> Timeframe:
    name = _stem(file).split("-")[1] if "-" in _stem(file) else ""
    if name not in set(Timeframe):
        raise BadRecording(f"{file} names no timeframe that is known", "name it SYMBOL-3m.feather or alike")
    return Timeframe(name)


def _trade_texts(file: Path) -> pl.DataFrame:
    """Return trades with prices and quantities still as text."""
    content = _bytes(file)
    if ".jsonl" in file.name:
        fields = {
            "a": pl.Int64,
            "p": pl.String,
            "q": pl.String,
            "f": pl.Int64,
            "l": pl.Int64,
            "T": pl.Int64,
            "m": pl.Boolean,
        }
        frame = pl.read_ndjson(io.BytesIO(content), schema=fields).rename(REST_FIELDS)
    else:
        first = content[: content.find(b"\n")]
        header = first[:1].isalpha()
        width = first.count(b",") + 1
        if width not in (7, 8):
            raise BadRecording(f"{file} has {width} columns, not 7 or 8", "use the archive's form")
        frame = pl.read_csv(content, has_header=False, skip_rows=int(header), infer_schema=False)
        frame = frame.rename(dict(zip(frame.columns, ARCHIVE_COLUMNS, strict=False))).select(list(REST_FIELDS.values()))
        whole = ("agg_trade_id", "first_trade_id", "last_trade_id", "time_ms")
        frame = frame.with_columns(
            *(pl.col(name).cast(pl.Int64) for name in whole),
            buyer_is_maker=pl.col("buyer_is_maker").str.to_lowercase().replace_strict({"true": True, "false": False}),
        )
    if frame.null_count().sum_horizontal()[0]:
        row = frame.with_row_index("line", 1).filter(pl.any_horizontal(pl.all().is_null()))["line"][0]
        raise BadRecording(f"{file} line {row} lacks a field", "replace the file")
    return frame.with_columns(time_ms=_milliseconds(pl.col("time_ms"))).select(list(TRADE_SCHEMA))


def _milliseconds(time: pl.Expr) -> pl.Expr:
    """Return times in milliseconds; the archives use microseconds since 2025."""
    return pl.when(time >= 10**15).then(time // 1000).otherwise(time)


def _kline_floats(file: Path) -> pl.DataFrame:
    """Return bars with float prices: `open_time` (ms), OHLC, `volume`."""
    content = io.BytesIO(_bytes(file))
    if ".feather" in file.name:
        frame = pl.read_ipc(content)
    elif ".parquet" in file.name:
        frame = pl.read_parquet(content)
    else:
        header = content.getvalue()[:1].isalpha()
        frame = pl.read_csv(content, has_header=header)
        if not header:
            frame = frame.rename(dict(zip(frame.columns, KLINE_COLUMNS, strict=False)))
    time = next((name for name in TIME_NAMES if name in frame.columns), None)
    if time is None:
        raise BadRecording(f"{file} has no column of times", f"name one {' or '.join(TIME_NAMES)}")
    column = frame[time]
    if column.dtype == pl.String:
        column = column.str.to_datetime(time_zone="UTC")
    times = (
        column.dt.epoch("ms")
        if column.dtype.is_temporal()
        else pl.select(_milliseconds(column.cast(pl.Int64))).to_series()
    )
    bars = frame.select(
        times.alias("open_time"), *(pl.col(n).cast(pl.Float64) for n in ("open", "high", "low", "close", "volume"))
    ).sort("open_time")
    bad = bars.filter(
        pl.any_horizontal(pl.all().is_null())
        | ~pl.all_horizontal(pl.col("open", "high", "low", "close", "volume").is_finite())
        | (pl.col("low") <= 0)
        | (pl.col("high") < pl.max_horizontal("open", "close", "low"))
        | (pl.col("low") > pl.min_horizontal("open", "close"))
        | (pl.col("volume") < 0)
    )
    if len(bad) or bars["open_time"].is_duplicated().any():
        raise BadRecording(f"{file} holds bars that cannot be, {len(bad)} of {len(bars)}", "replace the file")
    off = bars.filter(pl.col("open_time") % _interval(file).ms != 0)
    if len(off):
        raise BadRecording(f"{file} holds {len(off)} bars off the grid of {_interval(file)}", "replace the file")
    return bars


def _decimals(texts: pl.Series) -> int:
    """Return how many decimals are needed, trailing zeros aside, eight at most."""
    fractions = texts.str.split(".").list.get(1, null_on_oob=True).str.strip_chars_end("0").str.len_chars()
    return min(8, int(fractions.fill_null(0).max() or 0))  # pyright: ignore[reportArgumentType]


def _split(symbol: str) -> tuple[str, str]:
    for quote in QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol.removesuffix(quote), quote
    return symbol[:-3], symbol[-3:]


def _numbered(symbol: str, frame: pl.DataFrame, instrument: Instrument, number: str = "agg_trade_id") -> pl.DataFrame:
    try:
        prices = [instrument.ticks(text) for text in frame["price"]]
        lots = [instrument.lots(text) for text in frame["quantity"]]
    except TradingError as error:
        raise BadRecording(f"a recorded trade of {symbol} has no number: {error}", "replace the file") from None
    trades = frame.with_columns(price=pl.Series(prices, dtype=pl.Int64), quantity=pl.Series(lots, dtype=pl.Int64))
    trades = trades.unique(maintain_order=True).sort(number)
    twice = trades.filter(pl.col(number).is_duplicated())
    if len(twice):
        raise BadRecording(f"trade {twice[number][0]} of {symbol} is there twice and differs", "remove one file")
    return trades


def _holes(trades: pl.DataFrame) -> list[tuple[int, int]]:
    """Return the times of the trades before and after each hole in the ids."""
    after = trades.select("time_ms", before_ms=pl.col("time_ms").shift(), step=pl.col("agg_trade_id").diff())
    return after.filter(pl.col("step") > 1).select("before_ms", "time_ms").rows()


def _in_units(bars: pl.DataFrame, instrument: Instrument) -> pl.DataFrame:
    ticks, lots = 10**instrument.price_decimals, 10**instrument.quantity_decimals
    prices = [(pl.col(name) * ticks).round().cast(pl.Int64) for name in ("open", "high", "low", "close")]
    return bars.with_columns(
        *prices,
        volume=(pl.col("volume") * lots).round().cast(pl.Int64),
        notional=pl.lit(0, pl.Int64),  # not recorded; a client reads zero beside a volume as unknown
        trade_count=pl.lit(0, pl.Int64),
        taker_volume=pl.lit(0, pl.Int64),
    )
