"""An archive file is one symbol's aggregate trades or klines of one UTC day or month, as CSV the way Binance publishes it.

Files of different years differ: with a line of names or without, seven columns of trades or eight, times in milliseconds
or (spot, since 2025) microseconds. The form is found once a file; a file that mixes forms, or holds anything that cannot be
right, is refused whole by its first bad line. Nothing here fetches, unpacks or stores anything.
"""

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
import polars as pl

from trading.errors import TradingError
from trading.market.candle import native_candles
from trading.market.instrument import LARGEST, InexactNumber, Instrument
from trading.market.timeframe import DAY_MS, Timeframe
from trading.market.trade import TRADE_SCHEMA

TRADE_NAMES: Final = (
    "agg_trade_id",
    "price",
    "quantity",
    "first_trade_id",
    "last_trade_id",
    "transact_time",
    "is_buyer_maker",
    "is_best_match",
)
KLINE_NAMES: Final = (
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
MICROSECONDS_SINCE: Final = "2025-01-01"
"""Spot files of this day and later have times in microseconds."""

Unit = Literal["ms", "us"]

_PER_MS: Final[dict[Unit, int]] = {"ms": 1, "us": 1000}
_BOUNDS: Final[dict[Unit, tuple[int, int]]] = {"ms": (10**12, 10**13), "us": (10**15, 10**16)}
"""2001 to 2286 in each unit: no moment of one can be taken for one of the other."""

_DECIMAL: Final = r"^[0-9]{1,18}(\.[0-9]{1,18})?$"
_WHOLE: Final = r"^[0-9]{1,18}$"
_PATH: Final = re.compile(
    r"data/spot/(?P<span>daily|monthly)/(?P<dataset>aggTrades|klines)/(?P<symbol>[\w-]{1,32})/"
    r"((?P<interval>\w{2,3})/)?(?P=symbol)-(?P<label>\w+)-(?P<period>\d{4}-\d{2}(-\d{2})?)\.zip"
)


class BadArchive(TradingError):
    """An archive file cannot be taken as what it should be."""


class UnknownColumns(BadArchive):
    """Its columns are not those of a known form."""


class BadField(BadArchive):
    """A field is absent, no number, or impossible."""


class BetweenSteps(BadArchive, InexactNumber):
    """A price or quantity lies between the instrument's steps."""


class MixedUnits(BadArchive):
    """Its times are in no unit that is known, or in two."""


class NotInOrder(BadArchive):
    """Its ids or times go back or come twice."""


class OutsidePeriod(BadArchive):
    """It holds what another day, month or timeframe should hold."""


class ArchiveFile(msgspec.Struct, frozen=True):
    """Which file of the archive: symbol, UTC day `YYYY-MM-DD` or month `YYYY-MM`, and the timeframe of klines.

    Without a timeframe it holds aggregate trades.
    """

    symbol: str
    period: str
    timeframe: Timeframe | None = None

    @classmethod
    def of_path(cls, path: str) -> "ArchiveFile | None":
        """Return the file that a path of the layout names, or None."""
        found = _PATH.fullmatch(path)
        if found is None or found["label"] != (found["interval"] or "aggTrades"):
            return None
        if found["interval"] is not None and found["interval"] not in set(Timeframe):
            return None
        timeframe = Timeframe(found["interval"]) if found["interval"] else None
        file = cls(found["symbol"], found["period"], timeframe)
        try:
            return file if file.path == path and file.span_ms() else None
        except ValueError:
            return None

    @property
    def name(self) -> str:
        """Name without ending, as in the archive and inside the zip."""
        return f"{self.symbol}-{self.timeframe or 'aggTrades'}-{self.period}"

    @property
    def path(self) -> str:
        """Path of the zip below the archive's root."""
        span = "daily" if len(self.period) == len("YYYY-MM-DD") else "monthly"
        dataset = f"klines/{self.symbol}/{self.timeframe}" if self.timeframe else f"aggTrades/{self.symbol}"
        return f"data/spot/{span}/{dataset}/{self.name}.zip"

    def span_ms(self) -> tuple[int, int]:
        """Return the half-open time (epoch ms) of the period; raises ValueError where there is no such day or month."""
        if len(self.period) == len("YYYY-MM-DD"):
            start = datetime.strptime(self.period, "%Y-%m-%d").replace(tzinfo=UTC)
            return int(start.timestamp()) * 1000, int(start.timestamp()) * 1000 + DAY_MS
        start = datetime.strptime(self.period, "%Y-%m").replace(tzinfo=UTC)
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
        return int(start.timestamp()) * 1000, int(end.timestamp()) * 1000


class TradeForm(msgspec.Struct, frozen=True):
    """How a file of trades is written: a line of names first, the eighth column, the unit of times."""

    header: bool = False
    best_match: bool = True
    unit: Unit = "ms"

    @classmethod
    def of_spot(cls, period: str) -> "TradeForm":
        """Return the form in which spot files of a day or month are published."""
        return cls(unit="us" if period >= MICROSECONDS_SINCE[: len(period)] else "ms")


def trades_of_archive(content: bytes, instrument: Instrument, file: ArchiveFile) -> pl.DataFrame:
    """Return the trades of a file as `TRADE_SCHEMA`, by id; prices and quantities exact, times cut to milliseconds.

    Args:
        content: The CSV.
        instrument: Gives the steps of price and quantity.
        file: Which file it is; every trade must have happened in its period.

    Raises:
        UnknownColumns: It has not seven or eight columns, or they are named otherwise.
        BadField: A field is absent, no number, or impossible.
        BetweenSteps: A price or quantity lies between the instrument's steps.
        MixedUnits: Times are neither all milliseconds nor all microseconds.
        NotInOrder: An id is not above the one before. That one is missing is no fault of form.
        OutsidePeriod: A trade happened on another day.
    """
    texts, lines = _columns(content, file, (TRADE_NAMES[:7], TRADE_NAMES))
    for name in ("agg_trade_id", "first_trade_id", "last_trade_id", "transact_time"):
        _require(texts[name].str.contains(_WHOLE), texts[name], file, lines)
    for name in texts.columns[6:]:
        _require(texts[name].is_in(["True", "False", "true", "false"]), texts[name], file, lines)
    trades = pl.DataFrame(
        {
            "agg_trade_id": texts["agg_trade_id"].cast(pl.Int64),
            "price": _units(texts["price"], instrument.price_decimals, instrument, file, lines),
            "quantity": _units(texts["quantity"], instrument.quantity_decimals, instrument, file, lines),
            "first_trade_id": texts["first_trade_id"].cast(pl.Int64),
            "last_trade_id": texts["last_trade_id"].cast(pl.Int64),
            "time_ms": _milliseconds(texts["transact_time"].cast(pl.Int64), file, lines),
            "buyer_is_maker": texts["is_buyer_maker"].is_in(["True", "true"]),
        },
        schema=TRADE_SCHEMA,
    )
    _require(trades["price"] > 0, texts["price"], file, lines)
    _require(trades["last_trade_id"] >= trades["first_trade_id"], texts["last_trade_id"], file, lines)
    _ascending(trades["agg_trade_id"], file, lines)
    _inside(trades["time_ms"], file, lines)
    return trades


def klines_of_archive(content: bytes, file: ArchiveFile) -> pl.DataFrame:
    """Return the klines of a file as `CANDLE_SCHEMA`, by open time; raises what `trades_of_archive` raises."""
    timeframe = file.timeframe
    if timeframe is None:
        raise ValueError(f"{file.name} holds no klines")
    texts, lines = _columns(content, file, (KLINE_NAMES,))
    for name in ("open_time", "close_time", "count"):
        _require(texts[name].str.contains(_WHOLE), texts[name], file, lines)
    numbers = ("open", "high", "low", "close", "volume", "quote_volume")
    for name in numbers:
        _require(texts[name].str.contains(_DECIMAL), texts[name], file, lines)
    bars = texts.select(
        _milliseconds(texts["open_time"].cast(pl.Int64), file, lines),
        *(pl.col(name).cast(pl.Float64) for name in numbers),
        trade_count=pl.col("count").cast(pl.Int64),
        close_time=_milliseconds(texts["close_time"].cast(pl.Int64), file, lines),
    )
    can_be = bars.select(
        (pl.col("low") > 0)
        & (pl.col("low") <= pl.min_horizontal("open", "close"))
        & (pl.col("high") >= pl.max_horizontal("open", "close"))
    ).to_series()
    _require(can_be, texts["high"], file, lines)
    on_grid = bars.select(
        (pl.col("open_time") % timeframe.ms == 0) & (pl.col("close_time") < pl.col("open_time") + timeframe.ms)
    )
    if (bad := _first_bad(on_grid.to_series())) is not None:
        raise OutsidePeriod(f"{file.name} line {lines(bad)}: the bar is not one of {timeframe}", "get the file again")
    _ascending(bars["open_time"], file, lines)
    _inside(bars["open_time"], file, lines)
    return native_candles(bars)


def archive_of_trades(trades: pl.DataFrame, instrument: Instrument, form: TradeForm) -> bytes:
    """Return the CSV in which an archive of this form holds trades (`TRADE_SCHEMA`)."""
    columns = [
        pl.col("agg_trade_id"),
        _decimal_text("price", instrument.price_decimals),
        _decimal_text("quantity", instrument.quantity_decimals),
        pl.col("first_trade_id"),
        pl.col("last_trade_id"),
        (pl.col("time_ms") * _PER_MS[form.unit]).alias("transact_time"),
        # Spot writes True, futures (the seven columns) write true.
        pl.when("buyer_is_maker")
        .then(pl.lit("True" if form.best_match else "true"))
        .otherwise(pl.lit("False" if form.best_match else "false"))
        .alias("is_buyer_maker"),
    ]
    if form.best_match:
        columns.append(pl.lit("True").alias("is_best_match"))
    return trades.select(columns).write_csv(include_header=form.header).encode()


def _columns(content: bytes, file: ArchiveFile, forms: Sequence[Sequence[str]]) -> tuple[pl.DataFrame, "_LineNumbers"]:
    """Return the fields as text by name, and which line each row is."""
    first = content[: content.find(b"\n") if b"\n" in content else len(content)].decode(errors="replace").strip()
    found = first.split(",")
    names = next((form for form in forms if len(form) == len(found)), None)
    header = first[:1].isalpha()
    if not content.strip():
        return pl.DataFrame(schema=dict.fromkeys(forms[0], pl.String)), _LineNumbers(1)
    if names is None:
        known = " or ".join(str(len(form)) for form in forms)
        raise UnknownColumns(f"{file.name} has {len(found)} columns, not {known}", "is it a file of this archive?")
    if header and found != list(names):
        odd = next(name for name, expected in zip(found, names, strict=True) if name != expected)
        raise UnknownColumns(f"{file.name} has a column {odd[:40]!r}", f"known: {', '.join(names)}")
    lines = _LineNumbers(2 if header else 1)
    try:
        texts = pl.read_csv(
            io.BytesIO(content),
            has_header=False,
            skip_rows=int(header),
            infer_schema=False,
            new_columns=list(names),
            quote_char=None,
        )
    except pl.exceptions.NoDataError:
        return pl.DataFrame(schema=dict.fromkeys(names, pl.String)), lines
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UnknownColumns(
            f"{file.name} is no table of {len(names)} columns: {reason}", "get the file again"
        ) from None
    for name in names:
        _require(texts[name].is_not_null(), texts[name], file, lines)
    return texts, lines


class _LineNumbers(msgspec.Struct, frozen=True):
    first: int

    def __call__(self, row: int) -> int:
        """Return the line of the file in which a row stands."""
        return self.first + row


def _units(
    texts: pl.Series, decimals: int, instrument: Instrument, file: ArchiveFile, lines: _LineNumbers
) -> pl.Series:
    """Return decimal texts as whole steps of 10^-decimals."""
    _require(texts.str.contains(_DECIMAL), texts, file, lines)
    # 18 digits before the point and 18 after it fit into a 128-bit integer, so that nothing is rounded here.
    parts, step = texts.cast(pl.Decimal(38, 18)).to_physical().alias("parts"), 10 ** (18 - decimals)
    split = parts.to_frame().select(units=pl.col("parts") // step, rest=pl.col("parts") % step)
    units, exact = split["units"], (split["rest"] == 0) & (split["units"] < LARGEST)
    if (bad := _first_bad(exact)) is not None:
        raise BetweenSteps(
            f"{file.name} line {lines(bad)}: {texts.name} {texts[bad]} is no multiple of 10^-{decimals}",
            f"{instrument.name} has traded in other steps, or this is another market's file",
        )
    return units.cast(pl.Int64)


def _milliseconds(times: pl.Series, file: ArchiveFile, lines: _LineNumbers) -> pl.Series:
    if times.is_empty():
        return times
    for unit, (low, high) in _BOUNDS.items():
        if low <= int(times[0]) < high:
            if (bad := _first_bad((times >= low) & (times < high))) is not None:
                raise MixedUnits(f"{file.name} line {lines(bad)}: time {times[bad]} is not in {unit} as the first is")
            return times // _PER_MS[unit]
    raise MixedUnits(f"{file.name} line {lines(0)}: time {times[0]} is neither in milliseconds nor in microseconds")


def _ascending(keys: pl.Series, file: ArchiveFile, lines: _LineNumbers) -> None:
    if (bad := _first_bad(keys.diff().fill_null(1) > 0)) is not None:
        what = "comes twice" if keys[bad] == keys[bad - 1] else f"comes after {keys[bad - 1]}"
        raise NotInOrder(f"{file.name} line {lines(bad)}: {keys.name} {keys[bad]} {what}", "get the file again")


def _inside(times: pl.Series, file: ArchiveFile, lines: _LineNumbers) -> None:
    low, high = file.span_ms()
    if (bad := _first_bad((times >= low) & (times < high))) is not None:
        moment = datetime.fromtimestamp(times[bad] / 1000, UTC).isoformat()
        raise OutsidePeriod(f"{file.name} line {lines(bad)}: {moment} is not in {file.period}", "get the file again")


def _require(good: pl.Series, texts: pl.Series, file: ArchiveFile, lines: _LineNumbers) -> None:
    if (bad := _first_bad(good)) is not None:
        text = texts[bad]
        what = "is absent" if text is None else f"{text[:40]!r} cannot be"
        raise BadField(f"{file.name} line {lines(bad)}: {texts.name} {what}", "get the file again")


def _first_bad(good: pl.Series) -> int | None:
    return None if good.all() else int(good.arg_min() or 0)


def _decimal_text(name: str, decimals: int) -> pl.Expr:
    """Return integers as decimal text, padded to eight decimals as the exchange does."""
    scale = 10**decimals
    fraction = (pl.col(name) % scale).cast(pl.String).str.zfill(decimals) if decimals else pl.lit("")
    text = pl.concat_str((pl.col(name) // scale).cast(pl.String), pl.lit("."), fraction, pl.lit("0" * (8 - decimals)))
    return text.alias(name)
