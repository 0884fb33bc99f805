"""Relations: the SQL of rows as they were known, which queries select from.

Values are put in as literals, so that the planner leaves out the partitions that they rule out; they are numbers and names
of ours alone.
"""

from collections.abc import Sequence
from typing import Final

from resources.timescale.tables import CANDLE, CANDLE_1S, Table
from resources.timescale.writing import moment
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe


def versions(table: Table, condition: str, known_by_ms: int | None) -> str:
    """Return the SQL of the rows of a table that meet a condition, as they were known."""
    columns = ", ".join(table.columns)
    rows = f"SELECT {columns} FROM md.{table.relation} WHERE {condition}"
    if known_by_ms is None:
        return rows
    at = moment(known_by_ms)
    return (
        f"{rows} AND known_at <= {at} UNION ALL SELECT {columns} FROM md.{table.relation}_revision "
        f"WHERE {condition} AND known_at <= {at} AND superseded_at > {at}"
    )


def every_version(symbol_id: int, timeframes: Sequence[Timeframe], lo_ms: int, hi_ms: int) -> str:
    """Return the SQL, from FROM on, of every version of the bars that close in `(lo_ms, hi_ms]`, in the order of knowledge.

    Beside `CANDLE`'s columns there are `timeframe` and `withdrawn`, which is true of a bar that is there no longer.
    """
    bars, opens = "symbol_id, timeframe, open_time", []
    for timeframe in timeframes:
        first, end = moment(lo_ms - timeframe.ms + 1), moment(hi_ms - timeframe.ms + 1)
        opens.append(f"(timeframe = '{timeframe}' AND open_time >= {first} AND open_time < {end})")
    condition = f"r.symbol_id = {symbol_id} AND ({' OR '.join(opens)})"
    values = ", ".join(name for name in CANDLE.columns if name != "known_at")
    return (
        "FROM ("
        f"SELECT timeframe, {values}, known_at, false AS withdrawn FROM md.candle AS r WHERE {condition} "
        f"UNION ALL SELECT timeframe, {values}, known_at, false FROM md.candle_revision AS r "
        f"WHERE {condition} AND known_at < superseded_at "
        f"UNION ALL SELECT timeframe, {values}, superseded_at, true FROM md.candle_revision AS r WHERE {condition} "
        f"AND NOT EXISTS (SELECT FROM md.candle AS n WHERE ({bars}) = (r.symbol_id, r.timeframe, r.open_time) "
        "AND n.known_at = r.superseded_at) "
        f"AND NOT EXISTS (SELECT FROM md.candle_revision AS n WHERE ({bars}) = (r.symbol_id, r.timeframe, r.open_time) "
        "AND n.known_at = r.superseded_at)) AS v "
        "ORDER BY known_at, open_time + timeframe::interval, timeframe::interval"
    )


def ohlcv(symbol_id: str, timeframe: Timeframe, lo_ms: int, hi_ms: int, known_by_ms: int | None) -> str:
    """Return the SQL of the bars that open in `[lo_ms, hi_ms)`: stored ones, and of the rest what the minutes make."""
    opens = f"symbol_id = {symbol_id} AND open_time >= {moment(lo_ms)} AND open_time < {moment(hi_ms)}"
    if timeframe is Timeframe.S1:
        return versions(CANDLE_1S, opens, known_by_ms)
    stored = versions(CANDLE, f"timeframe = '{timeframe}' AND {opens}", known_by_ms)
    if timeframe is Timeframe.M1:
        return stored
    if known_by_ms is None:
        return f"SELECT {', '.join(CANDLE.columns)} FROM md.ohlcv_{timeframe} WHERE {opens}"
    length = f"interval '{timeframe.ms // SECOND_MS} seconds'"
    minute = f"timeframe = '1m' AND symbol_id = {symbol_id} AND open_time >= {{}} AND open_time < {{}}"
    parts = versions(CANDLE, minute.format("g.start", f"g.start + {length}"), known_by_ms)
    # Whatever versions there are, no bar lies outside of these; both ends come from an index.
    around = minute.format(moment(timeframe.ceil(lo_ms)), moment(timeframe.ceil(hi_ms)))
    ends = ", ".join(
        f"{bound}((SELECT {end}(open_time) FROM md.candle WHERE {around}), "
        f"(SELECT {end}(open_time) FROM md.candle_revision WHERE {around})) AS {name}"
        for bound, end, name in (("least", "min", "first"), ("greatest", "max", "last"))
    )
    return (
        f"WITH stored AS ({stored}) SELECT * FROM stored UNION ALL SELECT g.start, made.* FROM (SELECT {ends}) AS e "
        f"CROSS JOIN LATERAL generate_series(date_bin({length}, e.first, 'epoch'), e.last, {length}) AS g(start) "
        f"CROSS JOIN LATERAL (SELECT {ROLLED_UP.format(n_expected=timeframe.ms // MINUTE_MS)} FROM ({parts}) AS m "
        "HAVING count(*) > 0) AS made "
        "WHERE e.first IS NOT NULL AND NOT EXISTS (SELECT FROM stored WHERE open_time = g.start)"
    )


ROLLED_UP: Final = (
    "(array_agg(m.open ORDER BY m.open_time))[1] AS open, max(m.high) AS high, min(m.low) AS low, "
    "(array_agg(m.close ORDER BY m.open_time DESC))[1] AS close, sum(m.volume::numeric)::float8 AS volume, "
    "CASE WHEN count(m.quote_volume) = count(*) THEN sum(m.quote_volume::numeric)::float8 END AS quote_volume, "
    "CASE WHEN count(m.trade_count) = count(*) THEN sum(m.trade_count)::bigint END AS trade_count, "
    "min(m.first_agg_trade_id) AS first_agg_trade_id, max(m.last_agg_trade_id) AS last_agg_trade_id, "
    "'rollup' AS source, count(*) FILTER (WHERE m.complete) = {n_expected} AS complete, "
    "(count(*) FILTER (WHERE m.complete))::integer AS n_present, {n_expected} AS n_expected, max(m.known_at) AS known_at"
)
"""What minutes make of a longer bar, in the order of `CANDLE`'s columns. A float is summed as the decimal that it prints, so
that the sum does not depend on the order."""
