"""Counts of what the stores of a home hold, as they stand, and what its collectors last said."""

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resources.home import Home
    from resources.stores import Stores
    from resources.timescale.store import MarketStore


def counts(stores: "Stores") -> dict[str, Any]:
    """Return rows of every store, gaps in the trades, and what is missing at the source."""
    from resources.timescale.tables import CANDLE, DERIVATIVE, FEATURE, INDICATOR, MEASURES, OUTCOME, SNAPSHOT, TRADE

    market = stores.market
    return {
        "trades": sum(market.counts(TRADE).values()),
        "trade_gaps": trade_gaps(market),
        "candles": market.counts(CANDLE),
        "indicators": market.counts(INDICATOR),
        "lmdb": stores.lmdb.counts(),
        "snapshots": sum(market.counts(SNAPSHOT).values()),
        "outcomes": sum(market.counts(OUTCOME).values()),
        "features": sum(market.counts(FEATURE).values()),
        "measures": {table.name: sum(market.counts(table).values()) for table in MEASURES},
        "points": stores.index.count(),
        "derivatives": sum(market.counts(DERIVATIVE).values()),
        "missing": missing(market),
        **({"replica": replica(market)} if stores.settings.postgres_read_url else {}),
    }


def replica(market: "MarketStore") -> dict[str, Any]:
    """Return whether the replica answers, how far it is behind, and how many reads the primary answered for it."""
    told = market.connections.statistics
    return {"answers": market.connections.replica_serves, "lag_s": told.lag_s, "fallbacks": told.fallbacks}


SAID: Final = ("trades", "marks", "holes", "repaired", "stalls", "mark_stalls", "klines_agree", "klines_differ")


def streams(home: "Home") -> dict[str, dict[str, Any]]:
    """Return by kind of market when its collector last beat, in which process, and what it counted since it started."""
    from resources.heartbeat import last_said

    found = {}
    for file in sorted((home.run_dir / "heartbeat").glob("*.json")):
        if beat := last_said(home.run_dir, file.stem):
            age_s = round(time.time() - file.stat().st_mtime, 1)
            found[file.stem] = {"beat_age_s": age_s, "pid": beat["pid"], **{n: beat[n] for n in SAID if n in beat}}
    return found


def trade_gaps(market: "MarketStore") -> int:
    """Return how many holes there are between the ranges of ids that this venue holds, and inside them."""
    rows = market.fetch(
        """
        WITH coverage AS (SELECT c.* FROM md.trade_coverage c JOIN md.symbol USING (symbol_id) WHERE venue = $1)
        SELECT (SELECT count(*) FROM (
                    SELECT lead(first_id) OVER (PARTITION BY symbol_id ORDER BY proven_from) - last_id AS step
                    FROM coverage) r WHERE step > 1)
             + (SELECT count(*) FROM coverage c WHERE c.last_id - c.first_id + 1 <> (
                    SELECT count(*) FROM md.trade t WHERE t.symbol_id = c.symbol_id
                    AND t.agg_trade_id BETWEEN c.first_id AND c.last_id)) AS gaps
        """,
        market.venue,
    )
    return int(rows[0]["gaps"])


def missing(market: "MarketStore") -> dict[str, list[dict[str, Any]]]:
    """Return by symbol the stretches without a bar that no ids prove empty, as the exchange left them."""
    from dataclasses import replace
    from datetime import UTC, datetime

    from resources.timescale.tables import CANDLE
    from trading.market.candle import missing_bars, unproven
    from trading.market.timeframe import CANDLE_TIMEFRAMES

    found: dict[str, list[dict[str, Any]]] = {}
    opens = replace(CANDLE, schema={"open_time": CANDLE.schema["open_time"]})
    for symbol in market.instruments():
        proven, told = market.proven(symbol), None
        found[symbol] = []
        for timeframe in CANDLE_TIMEFRAMES:
            span = market.span(CANDLE, symbol, timeframe)
            if span is None:
                continue
            first, last = span[0], span[1] + timeframe.ms
            # The finest bars tell; longer ones only repeat them, but where there are no finer ones.
            untold = [(first, last)]
            if told is not None:
                untold = [(first, timeframe.floor(told[0])), (timeframe.ceil(told[1]), last)]
            told = (min(first, told[0]), max(last, told[1])) if told is not None else (first, last)
            holes = [
                hole
                for a, b in untold
                if a < b
                for hole in missing_bars(market.read(opens, symbol, a, b, timeframe), timeframe, a, b)
            ]
            found[symbol] += [
                {
                    "from": datetime.fromtimestamp(lo / 1000, UTC).isoformat(),
                    "to": datetime.fromtimestamp(hi / 1000, UTC).isoformat(),
                    "timeframe": timeframe.value,
                    "bars": (hi - lo) // timeframe.ms,
                }
                for start, end in holes
                for lo, hi in unproven(start, end, proven, timeframe)
            ]
    return found


def digests(stores: "Stores") -> dict[str, str]:
    """Return a digest of each projection and table, the same for the same content."""
    from resources.points import days_of_digests
    from resources.timescale.tables import CANDLE, FEATURE, INDICATOR, MEASURES, OUTCOME, SNAPSHOT, TRADE

    tables = {"trades": TRADE, "candles": CANDLE, "indicators": INDICATOR}
    tables |= {"snapshots": SNAPSHOT, "outcomes": OUTCOME, "features": FEATURE}
    tables |= {table.name: table for table in MEASURES}
    answer = {name: stores.market.digest(table) for name, table in tables.items()}
    answer |= {f"lmdb_{name}": stores.lmdb.digest(name) for name in stores.lmdb.counts()}
    from hashlib import sha256

    days = {symbol: days_of_digests(stores.index.stored(symbol)) for symbol in stores.market.instruments()}
    answer["points"] = sha256(repr(sorted(days.items())).encode()).hexdigest()
    return answer
