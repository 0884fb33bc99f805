"""What the exchange puts on the wire of trades and bars: JSON text, built by columns.

Spot pads numbers to eight decimals and futures do not; names and their order are those of recorded frames.
"""

import json
from collections.abc import Callable
from typing import Any

import polars as pl

from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe

PADDED_DECIMALS = 8


def decimal_text(units: pl.Expr, decimals: int, written: int = PADDED_DECIMALS) -> pl.Expr:
    """Return integers as decimal text with so many written decimals."""
    scale = 10**decimals
    if not written:
        return units.cast(pl.String)
    fraction = (units % scale).cast(pl.String).str.zfill(decimals) if decimals else pl.lit("")
    return pl.concat_str((units // scale).cast(pl.String), pl.lit("."), fraction, pl.lit("0" * (written - decimals)))


def price_text(ticks: pl.Expr, instrument: Instrument) -> pl.Expr:
    """Return prices as this kind of market writes them."""
    decimals = instrument.price_decimals
    return decimal_text(ticks, decimals, PADDED_DECIMALS if instrument.kind == "spot" else decimals)


def quantity_text(lots: pl.Expr, instrument: Instrument) -> pl.Expr:
    """Return quantities as this kind of market writes them."""
    decimals = instrument.quantity_decimals
    return decimal_text(lots, decimals, PADDED_DECIMALS if instrument.kind == "spot" else decimals)


def writers(instrument: Instrument) -> tuple[Callable[[int], str], Callable[[int], str]]:
    """Return what writes one price and one quantity as this kind of market does."""
    if instrument.kind != "spot":
        return instrument.price_text, instrument.quantity_text
    tails = [
        ("" if decimals else ".") + "0" * (PADDED_DECIMALS - decimals)
        for decimals in (instrument.price_decimals, instrument.quantity_decimals)
    ]
    return lambda ticks: instrument.price_text(ticks) + tails[0], lambda lots: instrument.quantity_text(lots) + tails[1]


def objects(frame: pl.DataFrame, fields: dict[str, pl.Expr | str]) -> list[str]:
    """Return each row as a JSON object; a field is an expression of its JSON text, or that text itself."""
    parts: list[pl.Expr] = []
    for name, value in fields.items():
        parts += [pl.lit(f'{"," if parts else "{"}"{name}":'), pl.lit(value) if isinstance(value, str) else value]
    return frame.select(pl.concat_str(*parts, pl.lit("}")).alias("text"))["text"].to_list()


def quoted(text: pl.Expr) -> pl.Expr:
    """Return text that needs no escapes between quotation marks."""
    return pl.concat_str(pl.lit('"'), text, pl.lit('"'))


def name_text(instrument: Instrument) -> str:
    """Return the market's name as JSON; it may be any script's."""
    return json.dumps(instrument.name, ensure_ascii=False)


def rest_trades(trades: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each aggregate trade as a REST element."""
    fields = {"a": _plain("agg_trade_id"), **_what(instrument), **_fills(), "T": _plain("time_ms"), "m": _maker()}
    return objects(trades, fields | ({"M": "true"} if instrument.kind == "spot" else {}))


def stream_trades(trades: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each aggregate trade as a websocket event."""
    named, what = {"s": name_text(instrument)}, _what(instrument)
    event: dict[str, pl.Expr | str] = {"e": '"aggTrade"', "E": _plain("time_ms")}
    number, fills = {"a": _plain("agg_trade_id")}, {**_fills(), "T": _plain("time_ms"), "m": _maker()}
    if instrument.kind == "spot":
        return objects(trades, event | named | number | what | fills | {"M": "true"})
    return objects(trades, event | number | named | what | {"nq": what["q"]} | fills | {"st": "1"})


def stream_fills(fills: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each fill as a websocket event."""
    time, what = _plain("time_ms"), _what(instrument)
    event: dict[str, pl.Expr | str] = {"e": '"trade"', "E": time}
    named = {"s": name_text(instrument), "t": _plain("trade_id"), **what}
    if instrument.kind == "spot":
        return objects(fills, event | named | {"T": time, "m": _maker(), "M": "true"})
    return objects(fills, event | {"T": time} | named | {"X": '"MARKET"', "m": _maker()})


def rest_fills(fills: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each fill as a REST element."""
    digits = instrument.price_decimals + instrument.quantity_decimals
    paid = decimal_text(pl.col("price") * pl.col("quantity"), digits, max(digits, PADDED_DECIMALS))
    fields: dict[str, pl.Expr | str] = {
        "id": _plain("trade_id"),
        "price": quoted(price_text(pl.col("price"), instrument)),
        "qty": quoted(quantity_text(pl.col("quantity"), instrument)),
        "quoteQty": quoted(paid),
        "time": _plain("time_ms"),
        "isBuyerMaker": _maker(),
    }
    return objects(fills, fields | ({"isBestMatch": "true"} if instrument.kind == "spot" else {}))


def _plain(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String)


def _maker() -> pl.Expr:
    return pl.when("buyer_is_maker").then(pl.lit("true")).otherwise(pl.lit("false"))


def _what(instrument: Instrument) -> dict[str, pl.Expr]:
    price, quantity = price_text(pl.col("price"), instrument), quantity_text(pl.col("quantity"), instrument)
    return {"p": quoted(price), "q": quoted(quantity)}


def _fills() -> dict[str, pl.Expr]:
    return {"f": _plain("first_trade_id"), "l": _plain("last_trade_id")}


def rest_klines(bars: pl.DataFrame, instrument: Instrument, timeframe: Timeframe) -> str:
    """Return bars as the REST answer: a list of lists of twelve."""
    digits = instrument.price_decimals + instrument.quantity_decimals
    columns = [
        _plain("open_time"),
        *(quoted(price_text(pl.col(name), instrument)) for name in ("open", "high", "low", "close")),
        quoted(quantity_text(pl.col("volume"), instrument)),
        (pl.col("open_time") + timeframe.ms - 1).cast(pl.String),
        quoted(pl.lit(bars["notional"].cast(pl.Float64) / float(10**digits)).cast(pl.String)),
        _plain("trade_count"),
        quoted(quantity_text(pl.col("taker_volume"), instrument)),
    ]
    row = pl.concat_str(pl.lit("["), pl.concat_str(*columns, separator=","), pl.lit(',"0","0"]'))
    return "[" + ",".join(bars.select(row.alias("text"))["text"].to_list()) + "]"


def kline_event(bar: dict[str, Any], instrument: Instrument, timeframe: Timeframe, closed: bool, now_ms: int) -> str:
    """Return one bar as a websocket event."""
    text, lots = writers(instrument)
    kline = {
        "t": bar["open_time"],
        "T": bar["open_time"] + timeframe.ms - 1,
        "s": instrument.name,
        "i": timeframe.value,
    }
    kline |= {"f": -1, "L": -1, "o": text(bar["open"]), "c": text(bar["close"]), "h": text(bar["high"])}
    kline |= {"l": text(bar["low"]), "v": lots(bar["volume"]), "n": bar["trade_count"], "x": closed, "q": "0"}
    kline |= {"V": lots(bar["taker_volume"]), "Q": "0", "B": "0"}
    return json.dumps({"e": "kline", "E": now_ms, "s": instrument.name, "k": kline}, ensure_ascii=False)
