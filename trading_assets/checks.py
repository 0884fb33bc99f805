"""Checks: for each asset, one question whose answer no damaged store can give right.

A check compares a store with the asset's own record of what it wrote, after looking for the damage that a reader would
meet first: an id that is missing, a bar off its grid, a value out of range. It looks at its own asset only, so that one
damage turns one check red, and names the first offending key.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.wiring import HotCache, LmdbProjection, MarketDatabase, StateIndex, TradeJournalReader
from trading.market.timeframe import CANDLE_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from resources.stores import Stores

Finding = str | None
"""The first offending key and what is wrong with it, or None."""


Question = Callable[["Stores", Sequence[str]], Finding]
"""Asks the stores about some symbols."""


def _verdict(finding: Finding, **metadata: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=finding is None,
        metadata={"first_offending_key": finding or "none", **metadata},
        description=finding or "the store is as it was written",
    )


def instruments_known(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Each symbol is an instrument whose name is its base and its quote."""
    known = stores.market.instruments()
    for name in symbols:
        if name not in known:
            return f"{name}: not registered"
        if known[name].base + known[name].quote != name:
            return f"{name}: base {known[name].base} and quote {known[name].quote} do not make the name"
    return None


def batches_hold_ledger(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """The journal's batches hold exactly the ids that its ledger claims."""
    from resources.journal import TradeJournal

    with TradeJournal.read(stores.home.rocksdb_dir) as journal:
        for symbol in symbols:
            missing = journal.verify(symbol)
            if missing:
                return f"{symbol} ids {missing[0][0]}…{missing[0][1]}: claimed by the ledger, in no batch"
    return None


def trades_contiguous(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Inside each range of ids that the ledger proves there is a row for every id."""
    rows = stores.market.fetch(
        """
        SELECT s.name, c.first_id, c.last_id, g.agg_trade_id AS before, g.next AS after
        FROM md.trade_coverage c JOIN md.symbol s USING (symbol_id)
        LEFT JOIN LATERAL (
            SELECT agg_trade_id, next FROM (
                SELECT agg_trade_id, lead(agg_trade_id, 1, c.last_id + 1) OVER (ORDER BY agg_trade_id) AS next
                FROM (SELECT agg_trade_id FROM md.trade t WHERE t.symbol_id = c.symbol_id
                      AND t.agg_trade_id BETWEEN c.first_id AND c.last_id UNION ALL SELECT c.first_id - 1) ids
            ) pairs WHERE next <> agg_trade_id + 1 ORDER BY agg_trade_id LIMIT 1
        ) g ON true
        WHERE s.venue = $1 AND s.name = ANY($2) AND g.next IS NOT NULL ORDER BY s.name, c.first_id LIMIT 1
        """,
        stores.venue,
        symbols,
    )
    if rows:
        row = rows[0]
        return f"{row['name']} ids {row['before'] + 1}…{row['after'] - 1}: missing"
    from resources.timescale.tables import TRADE

    return _damaged(stores, symbols, TRADE, "agg_trades")


def sources_agree(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Websocket, REST and archive say the same of each trade that two of them have."""
    rows = stores.market.fetch(
        """
        SELECT s.name, r.time, r.reason FROM md.trade_reconciliation r JOIN md.symbol s USING (symbol_id)
        WHERE s.venue = $1 AND s.name = ANY($2) AND r.verdict = 'differs' ORDER BY s.name, r.time LIMIT 1
        """,
        stores.venue,
        symbols,
    )
    if rows:
        return f"{rows[0]['name']} {rows[0]['time']:%Y-%m-%d}: {rows[0]['reason']}"
    from resources.timescale.tables import RECONCILIATION

    return _damaged(stores, symbols, RECONCILIATION, "trade_reconciliation")


def candles_as_made(timeframe: Timeframe) -> Question:
    """Return the check of one timeframe: on the grid, in range, as written."""

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        from resources.timescale.tables import CANDLE

        rows = stores.market.fetch(
            """
            SELECT s.name, c.open_time FROM md.candle c JOIN md.symbol s USING (symbol_id)
            WHERE s.venue = $1 AND s.name = ANY($4) AND c.timeframe = $2
            AND (extract(epoch FROM c.open_time) * 1000)::bigint % $3 <> 0
            ORDER BY s.name, c.open_time LIMIT 1
            """,
            stores.venue,
            timeframe.value,
            timeframe.ms,
            symbols,
        )
        if rows:
            return f"{rows[0]['name']} {timeframe} {rows[0]['open_time'].isoformat()}: opens off the grid"
        return _damaged(stores, symbols, CANDLE, f"candles_{timeframe}", timeframe)

    return check


def indicators_as_made(timeframe: Timeframe) -> Question:
    """Return the check of one timeframe: RSI in 0…100, ATR not negative, no NaN, as written."""

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        from resources.timescale.tables import INDICATOR

        rows = stores.market.fetch(
            """
            SELECT s.name, i.open_time FROM md.indicator i JOIN md.symbol s USING (symbol_id)
            WHERE s.venue = $1 AND s.name = ANY($3) AND i.timeframe = $2 AND (
                NOT i.rsi_7 BETWEEN 0 AND 100 OR NOT i.rsi_14 BETWEEN 0 AND 100 OR i.atr_3 < 0 OR i.atr_14 < 0
                OR 'NaN' IN (i.ema_20, i.ema_50, i.ema_200, i.macd, i.macd_signal, i.macd_hist, i.atr_3, i.atr_14)
            ) ORDER BY s.name, i.open_time LIMIT 1
            """,
            stores.venue,
            timeframe.value,
            symbols,
        )
        if rows:
            return f"{rows[0]['name']} {timeframe} {rows[0]['open_time'].isoformat()}: indicator out of range"
        return _damaged(stores, symbols, INDICATOR, f"indicators_{timeframe}", timeframe)

    return check


def lmdb_as_projected(kind: str) -> Question:
    """Return the check of `candles` or `indicators`: each day's entries are those that were projected.

    Those of an external producer are its own affair; they need only be readable.
    """

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        from resources.day_digest import days_of_frame

        for timeframe in (Timeframe.M3, Timeframe.H4):
            database = f"{kind}_{timeframe}"
            for symbol in symbols:
                there = days_of_frame(stores.lmdb.read(database, symbol, 0, 2**62), "open_time")
                noted = stores.market.noted_days(f"lmdb_{database}", symbol)
                finding = _differing(database, symbol, noted, there) if stores.lmdb.ours else None
                if finding:
                    return finding
        return None

    return check


def states_as_taken(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """States are as written."""
    from resources.timescale.tables import SNAPSHOT

    return _damaged(stores, symbols, SNAPSHOT, "market_snapshots")


def outcomes_as_known(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """No outcome is there before its 24 hours have passed in the candles, and all are as written."""
    from resources.timescale.tables import OUTCOME

    rows = stores.market.fetch(
        """
        SELECT s.name, o.time FROM md.outcome o JOIN md.symbol s USING (symbol_id)
        WHERE s.venue = $1 AND s.name = ANY($2) AND o.matures_at_ms <> (extract(epoch FROM o.time) * 1000)::bigint + 86400000
        ORDER BY s.name, o.time LIMIT 1
        """,
        stores.venue,
        symbols,
    )
    if rows:
        return f"{rows[0]['name']} {rows[0]['time'].isoformat()}: outcome known before it happened"
    return _damaged(stores, symbols, OUTCOME, "snapshot_outcomes")


def features_as_taken(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Features are finite, within their bounds and as written."""
    from resources.timescale.tables import FEATURE
    from trading.rag.features import FEATURES

    bounds = " OR ".join(f"abs(f.{name}) > 2.61" for name in FEATURES)
    rows = stores.market.fetch(
        "SELECT s.name, f.time FROM md.feature f JOIN md.symbol s USING (symbol_id) "  # noqa: S608
        f"WHERE s.venue = $1 AND s.name = ANY($2) AND ({bounds}) ORDER BY s.name, f.time LIMIT 1",
        stores.venue,
        symbols,
    )
    if rows:
        return f"{rows[0]['name']} {rows[0]['time'].isoformat()}: feature out of range"
    return _damaged(stores, symbols, FEATURE, "snapshot_features")


def points_as_uploaded(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """The index holds for each day as many points, with the digests, as were uploaded."""
    from resources.points import days_of_digests

    for symbol in symbols:
        there = days_of_digests(stores.index.stored(symbol))
        finding = _differing("qdrant_points", symbol, stores.market.noted_days("qdrant_points", symbol), there)
        if finding:
            return finding
    return None


def minutes_merge_to_trades(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Profile minutes are as written, and those of the newest day are what its trades sum to, counted anew.

    Trades that are not as they were written are the affair of `agg_trades`, and the last minute may still be growing.
    """
    from resources.timescale.store import day_digest
    from resources.timescale.tables import PROFILE_MINUTE

    rows = stores.market.fetch(
        f"""
        WITH newest AS (
            SELECT d.symbol_id, s.name, max(d.day) AS day FROM md.day d JOIN md.symbol s USING (symbol_id)
            WHERE d.asset = 'profile_minutes' AND s.venue = $1 AND s.name = ANY($2) GROUP BY 1, 2
        ), sound AS (
            SELECT n.*, (SELECT max(p.minute) FROM md.profile_minute p WHERE p.symbol_id = n.symbol_id) AS last
            FROM newest n JOIN md.day r ON r.symbol_id = n.symbol_id AND r.day = n.day AND r.asset = 'agg_trades'
            WHERE r.digest = (SELECT {day_digest("t")} FROM md.trade t
                              WHERE t.symbol_id = n.symbol_id AND t.time >= n.day AND t.time < n.day + 1)
        ), traded AS (
            SELECT n.name, date_trunc('minute', t.time) AS minute, t.price AS tick, count(*) AS trades,
                   coalesce(sum(t.quantity) FILTER (WHERE NOT t.buyer_is_maker), 0) AS bought,
                   coalesce(sum(t.quantity) FILTER (WHERE t.buyer_is_maker), 0) AS sold
            FROM sound n JOIN md.trade t ON t.symbol_id = n.symbol_id AND t.time >= n.day AND t.time < n.last
            GROUP BY 1, 2, 3
        ), kept AS (
            SELECT n.name, p.minute, level.* FROM sound n
            JOIN md.profile_minute p ON p.symbol_id = n.symbol_id AND p.minute >= n.day AND p.minute < n.last
            CROSS JOIN LATERAL unnest(p.tick, p.trade_count, p.buy_lots, p.sell_lots) AS level (tick, trades, bought, sold)
        )
        SELECT name, minute FROM traded t FULL JOIN kept k USING (name, minute, tick)
        WHERE (t.trades, t.bought, t.sold) IS DISTINCT FROM (k.trades, k.bought, k.sold) ORDER BY name, minute LIMIT 1
        """,  # noqa: S608
        stores.venue,
        symbols,
    )
    if rows:
        return f"{rows[0]['name']} {rows[0]['minute'].isoformat()}: not what the minute's trades sum to"
    return _damaged(stores, symbols, PROFILE_MINUTE, "profile_minutes")


def measures_as_made(asset: str, table_name: str, wrong: str, what: str) -> Question:
    """Return the check of measures: none is out of its range, and all are as written."""

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        from resources.timescale import tables

        table = getattr(tables, table_name)
        rows = stores.market.fetch(
            f"SELECT s.name, m.{table.time_column} AS at FROM md.{table.name} m JOIN md.symbol s USING (symbol_id) "  # noqa: S608
            f"WHERE s.venue = $1 AND s.name = ANY($2) AND ({wrong}) ORDER BY s.name, at LIMIT 1",
            stores.venue,
            symbols,
        )
        if rows:
            return f"{rows[0]['name']} {rows[0]['at'].isoformat()}: {what}"
        return _damaged(stores, symbols, table, asset)

    check.__doc__ = f"Of no row it can be said: {what}; and all are as written."
    return check


MEASURES: dict[str, tuple[str, str, str]] = {
    "volume_profiles": (
        "VOLUME_PROFILE",
        "(m.missing IS NULL) <> (m.trade_count >= 1000) OR m.value_area_pct < 70 "
        "OR NOT m.point_of_control BETWEEN m.value_area_low AND m.value_area_high "
        "OR (SELECT sum(n) FROM unnest(m.bin_trade_count) n) <> m.trade_count",
        "the profile contradicts itself",
    ),
    "liquidity_vacuums": (
        "LIQUIDITY_VACUUM",
        "NOT m.price_low < m.price_high OR NOT m.deficit_pct BETWEEN 0 AND 100 "
        "OR m.stop_long >= m.price_low OR m.stop_short <= m.price_high",
        "no vacuum, or a stop inside it",
    ),
    "order_flow": (
        "ORDER_FLOW",
        "abs(m.delta - (m.buy_volume - m.sell_volume)) > 1e-9 * (1 + m.buy_volume + m.sell_volume)",
        "delta is not bought less sold",
    ),
    "order_books": (
        "ORDER_BOOK",
        "NOT m.seconds BETWEEN 1 AND 60 OR m.spread_bps <= 0 OR m.spread_bps_max < m.spread_bps - 1e-9 "
        "OR NOT m.imbalance BETWEEN -1 AND 1 OR m.best_bid >= m.best_ask",
        "no book, or a crossed one",
    ),
    "market_reports": (
        "MARKET_REPORT",
        "m.markdown NOT LIKE '# ' || s.name || '%' OR m.as_of_ms > (extract(epoch FROM m.day) * 1000)::bigint + 86400000",
        "no report on this market and day",
    ),
}
"""By asset: its table, what no row may be, and that in words."""


def derivatives_as_kept(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Each day holds as many values as its coverage says, and all versions as they were kept."""
    rows = stores.market.fetch(
        """
        WITH held AS (
            SELECT symbol_id, kind, time::date AS day, count(DISTINCT time) AS n FROM md.derivative GROUP BY 1, 2, 3
        )
        SELECT s.name, coalesce(c.kind, h.kind) AS kind, coalesce(c.day, h.day) AS day,
            coalesce(h.n, 0) AS found, coalesce(c.n_values, 0) AS noted
        FROM md.derivative_coverage c FULL JOIN held h USING (symbol_id, kind, day)
        JOIN md.symbol s ON s.symbol_id = coalesce(c.symbol_id, h.symbol_id)
        WHERE s.venue = $1 AND s.name = ANY($2) AND c.n_values IS DISTINCT FROM coalesce(h.n, 0)
        ORDER BY 1, 3, 2 LIMIT 1
        """,
        stores.venue,
        symbols,
    )
    if rows:
        row = rows[0]
        return f"{row['name']} {row['day']} {row['kind']}: {row['found']} values, {row['noted']} in its coverage"
    from resources.timescale.tables import DERIVATIVE

    return _damaged(stores, symbols, DERIVATIVE, "derivatives")


def hot_as_database(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Redis holds what the database says is newest."""
    from resources.latest import latest_values

    differing = [name for name in stores.hot.differing(latest_values(stores.market)) if name in symbols]
    return f"latest:{differing[0]}: not what the database holds" if differing else None


def _damaged(
    stores: "Stores", symbols: Sequence[str], table: Any, asset: str, timeframe: Timeframe | None = None
) -> Finding:
    days = stores.market.damaged_days(table, asset, symbols, timeframe)
    if not days:
        return None
    symbol, day, recorded, found = days[0]
    what = f"{found} rows, {recorded} written" if found != recorded else "a value is not as written"
    return f"{symbol} {day}: {what}; materialize {asset} for this day"


def _differing(name: str, symbol: str, noted: dict[str, tuple[int, str]], there: dict[str, tuple[int, str]]) -> Finding:
    for day in sorted(noted.keys() | there.keys()):
        if noted.get(day) != there.get(day):
            found, recorded = there.get(day, (0, ""))[0], noted.get(day, (0, ""))[0]
            what = f"{found} entries, {recorded} written" if found != recorded else "a value is not as written"
            return f"{name} {symbol} {day}: {what}"
    return None


CHECKS: dict[str, tuple[str, Question]] = {
    "instruments": ("instruments_known", instruments_known),
    "trade_batches": ("batches_hold_ledger", batches_hold_ledger),
    "agg_trades": ("ids_contiguous", trades_contiguous),
    "trade_reconciliation": ("sources_agree", sources_agree),
    **{f"candles_{t}": ("spaced_and_as_made", candles_as_made(t)) for t in CANDLE_TIMEFRAMES},
    **{f"indicators_{t}": ("in_range_and_as_made", indicators_as_made(t)) for t in (Timeframe.M3, Timeframe.H4)},
    "lmdb_candles": ("equals_projection", lmdb_as_projected("candles")),
    "lmdb_indicators": ("equals_projection", lmdb_as_projected("indicators")),
    "market_snapshots": ("as_taken", states_as_taken),
    "snapshot_outcomes": ("nothing_known_early", outcomes_as_known),
    "snapshot_features": ("finite_and_as_taken", features_as_taken),
    "qdrant_points": ("count_equals_features", points_as_uploaded),
    "profile_minutes": ("equal_trades", minutes_merge_to_trades),
    **{asset: ("in_range_and_as_made", measures_as_made(asset, *about)) for asset, about in MEASURES.items()},
    "derivatives": ("covered_and_as_kept", derivatives_as_kept),
    "hot_values": ("equals_database", hot_as_database),
}
"""By asset: the name of its check and the question."""


def symbols_of(tags: Mapping[str, str], stores: "Stores") -> list[str]:
    """Return the symbol that a run is about, or all: another run may be in the middle of writing another symbol."""
    key = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    return [key.split("|")[1]] if key else list(stores.market.instruments())


def _asset_check(asset: str, name: str, question: Question) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name=name, description=(question.__doc__ or "").removeprefix("Return the check of "))
    def check(
        context: dg.AssetCheckExecutionContext,
        market: MarketDatabase,
        journal: TradeJournalReader,
        lmdb: LmdbProjection,
        index: StateIndex,
        hot: HotCache,
    ) -> dg.AssetCheckResult:
        return _verdict(question(market.stores, symbols_of(context.run.tags, market.stores)))

    return check


checks = [_asset_check(asset, name, question) for asset, (name, question) in CHECKS.items()]
