"""What the exchange puts on the wire of order books: JSON text of diffs, best prices and snapshots."""

import polars as pl

from resources.simulator.market import Depth, DepthChange, Levels
from resources.simulator.wire import name_text, objects, price_text, quantity_text, quoted, writers
from trading.market.instrument import Instrument


def rest_depth(depth: Depth, instrument: Instrument) -> str:
    """Return a snapshot as the REST answer; only futures say when it was."""
    at = "" if instrument.kind == "spot" else f'"E":{depth.time_ms},"T":{depth.time_ms},'
    return f'{{"lastUpdateId":{depth.update_id},{at}{_sides("bids", "asks", depth.bids, depth.asks, instrument)}}}'


def stream_depth(depth: Depth, before: Depth, now_ms: int, instrument: Instrument) -> str:
    """Return the best levels as a websocket event; spot sends them bare, futures in the form of a diff."""
    if instrument.kind == "spot":
        return rest_depth(depth, instrument)
    change = DepthChange(now_ms, before.update_id + 1, depth.update_id, depth.bids, depth.asks)
    return stream_change(change, instrument)


def stream_change(change: DepthChange, instrument: Instrument) -> str:
    """Return what changed as a websocket event."""
    head = f'{{"e":"depthUpdate","E":{change.time_ms}'
    symbol, ids = f'"s":{name_text(instrument)}', f'"U":{change.first_id},"u":{change.last_id}'
    if instrument.kind == "spot":
        return f"{head},{symbol},{ids},{_sides('b', 'a', change.bids, change.asks, instrument)}}}"
    sides = _sides("b", "a", change.bids, change.asks, instrument)
    return f'{head},"T":{change.time_ms - 1},{symbol},{ids},"pu":{change.first_id - 1},{sides}}}'


def stream_quotes(quotes: pl.DataFrame, instrument: Instrument) -> list[str]:
    """Return each change of the best prices as a websocket event; spot does not say what it is nor when it was."""
    time = pl.col("time_ms").cast(pl.String)
    best: dict[str, pl.Expr | str] = {
        "u": pl.col("update_id").cast(pl.String),
        "s": name_text(instrument),
        "b": quoted(price_text(pl.col("bid"), instrument)),
        "B": quoted(quantity_text(pl.col("bid_quantity"), instrument)),
        "a": quoted(price_text(pl.col("ask"), instrument)),
        "A": quoted(quantity_text(pl.col("ask_quantity"), instrument)),
    }
    return objects(quotes, best if instrument.kind == "spot" else {"e": '"bookTicker"'} | best | {"T": time, "E": time})


def _sides(bid: str, ask: str, bids: Levels, asks: Levels, instrument: Instrument) -> str:
    price, lots = writers(instrument)
    texts = [",".join([f'["{price(p)}","{lots(q)}"]' for p, q in levels]) for levels in (bids, asks)]
    return f'"{bid}":[{texts[0]}],"{ask}":[{texts[1]}]'
