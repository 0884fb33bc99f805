"""What the exchange puts on the wire: JSON text of trades and bars, built by columns."""

import json
from typing import Any

import polars as pl

from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe

PADDED_DECIMALS = 8


def decimal_text(units: pl.Expr, decimals: int) -> pl.Expr:
    """Return integers as decimal text with eight decimals, as the exchange pads them."""
    scale = 10**decimals
    fraction = (units % scale).cast(pl.String).str.zfill(decimals) if decimals else pl.lit("")
    return pl.concat_str(
        (units // scale).cast(pl.String), pl.lit("."), fraction, pl.lit("0" * (PADDED_DECIMALS - decimals))
    )


def rest_trades(trades: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each trade as a REST element."""
    return _trade_texts(trades, instrument, pl.lit(""), "}")


def stream_trades(trades: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each trade as a websocket event."""
    head = pl.concat_str(
        pl.lit('"e":"aggTrade","E":'),
        pl.col("time_ms"),
        pl.lit(f',"s":{json.dumps(instrument.name, ensure_ascii=False)},'),
    )
    return _trade_texts(trades, instrument, head, "}")


def _trade_texts(trades: pl.DataFrame, instrument: Instrument, head: pl.Expr, tail: str) -> list[str]:
    maker = pl.when("buyer_is_maker").then(pl.lit("true")).otherwise(pl.lit("false"))
    text = pl.concat_str(
        pl.lit("{"),
        head,
        pl.lit('"a":'),
        pl.col("agg_trade_id"),
        pl.lit(',"p":"'),
        decimal_text(pl.col("price"), instrument.price_decimals),
        pl.lit('","q":"'),
        decimal_text(pl.col("quantity"), instrument.quantity_decimals),
        pl.lit('","f":'),
        pl.col("first_trade_id"),
        pl.lit(',"l":'),
        pl.col("last_trade_id"),
        pl.lit(',"T":'),
        pl.col("time_ms"),
        pl.lit(',"m":'),
        maker,
        pl.lit(f',"M":true{tail}'),
    )
    return trades.select(text.alias("text"))["text"].to_list()


def rest_klines(bars: pl.DataFrame, instrument: Instrument, timeframe: Timeframe) -> str:
    """Return bars as the REST answer: a list of lists of twelve."""
    price, lots = instrument.price_decimals, instrument.quantity_decimals
    notional = bars["notional"].cast(pl.Float64) / float(10 ** (price + lots))
    row = pl.concat_str(
        pl.lit("["),
        pl.col("open_time"),
        *(
            pl.concat_str(pl.lit(',"'), decimal_text(pl.col(n), price), pl.lit('"'))
            for n in ("open", "high", "low", "close")
        ),
        pl.lit(',"'),
        decimal_text(pl.col("volume"), lots),
        pl.lit('",'),
        pl.col("open_time") + timeframe.ms - 1,
        pl.lit(',"'),
        notional,
        pl.lit('",'),
        pl.col("trade_count"),
        pl.lit(',"'),
        decimal_text(pl.col("taker_volume"), lots),
        pl.lit('","0","0"]'),
    )
    return "[" + ",".join(bars.select(row.alias("text"))["text"].to_list()) + "]"


def kline_event(bar: dict[str, Any], instrument: Instrument, timeframe: Timeframe, closed: bool, now_ms: int) -> str:
    """Return one bar as a websocket event."""
    text, lots = instrument.price_text, instrument.quantity_text
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
