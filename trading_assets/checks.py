"""Checks: for each asset, one question whose answer no damaged store can give right.

A check compares a store with the asset's own record of what it wrote, after looking for the damage that a reader would
meet first: an id that is missing, a bar off its grid, a value out of range. It looks at its own asset only, so that one
damage turns one check red, and names the first offending key.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.wiring import HotCache, LmdbProjection, MarketDatabase, StateIndex, TradeJournalReader
from trading.market.timeframe import Timeframe
from trading_assets.row_checks import RULES, RowRule

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


def batches_hold_ledger(kind: str) -> Question:
    """Return the check of the journal of one kind of market."""

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        from resources.journal import TradeJournal

        directory = stores.home.journal_dir(kind)
        if kind == "usdm" and not directory.exists():
            return None  # contracts are collected only where a futures root is set
        with TradeJournal.read(directory) as journal:
            for symbol in symbols:
                missing = journal.verify(symbol)
                if missing:
                    return f"{symbol} ids {missing[0][0]}…{missing[0][1]}: claimed by the ledger, in no batch"
        return None

    check.__doc__ = "The journal's batches hold exactly the ids that its ledger claims."
    return check


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
    from resources.timescale.day_record import DIGEST, lines
    from resources.timescale.tables import PROFILE_MINUTE, TRADE

    of_the_day = "t.symbol_id = n.symbol_id AND t.time >= n.day AND t.time < n.day + 1"
    rows = stores.market.fetch(
        f"""
        WITH newest AS (
            SELECT d.symbol_id, s.name, max(d.day) AS day FROM md.day d JOIN md.symbol s USING (symbol_id)
            WHERE d.asset = 'profile_minutes' AND s.venue = $1 AND s.name = ANY($2) GROUP BY 1, 2
        ), sound AS (
            SELECT n.*, (SELECT max(p.minute) FROM md.profile_minute p WHERE p.symbol_id = n.symbol_id) AS last
            FROM newest n JOIN md.day r ON r.symbol_id = n.symbol_id AND r.day = n.day AND r.asset = 'agg_trades'
            WHERE r.digest = (SELECT {DIGEST} FROM {lines(TRADE, of_the_day)})
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


def rows_as_made(asset: str, rule: RowRule) -> Question:
    """Return the check of an asset: no row is what none may be, and all are as written."""

    def check(stores: "Stores", symbols: Sequence[str]) -> Finding:
        wrong = rule.first_wrong(stores, symbols)
        return wrong or _damaged(stores, symbols, rule.kept_in(), asset, rule.timeframe)

    check.__doc__ = f"Of no row it can be said: {rule.what}; and all are as written."
    return check


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


def lake_as_exported(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Each exported day is there as its manifest says: the newest of a dataset byte for byte, older ones by length."""
    from resources.lake import DATASETS, LakeFileDamaged, LakeFileMissing

    for dataset, symbol in product(DATASETS, symbols):
        there, days = {}, stores.lake.days(dataset, symbol)
        try:
            for day in days:
                manifest = stores.lake.manifest(dataset, symbol, day)
                if manifest is not None:
                    there[day] = (manifest.rows, manifest.sha256)
                    (stores.lake.content if day == days[-1] else stores.lake.file)(manifest)
        except (LakeFileDamaged, LakeFileMissing) as error:
            return error.message
        finding = _differing(f"lake {dataset}", symbol, stores.market.noted_days(f"lake_{dataset}", symbol), there)
        if finding:
            return finding
    return None


def dropped_is_in_lake(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Of each day that was dropped the lake has the rows that there were."""
    from resources.lake_retention import lost_days
    from resources.timescale.backend import RETAINED

    for table, symbol in product(RETAINED, symbols):
        lost = lost_days(stores.market, stores.lake, table, symbol)
        if lost:
            return f"{symbol} {lost[0]}: rows of {table.name} were dropped, and the lake does not give them back"
    return None


def hot_as_database(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Redis holds what the database says was newest when Redis was told; a minute may have closed since."""
    from resources.latest import latest_values

    held = {symbol: stores.hot.get(symbol) for symbol in symbols}
    opens = {symbol: int(row["open_time_ms"]) for symbol, row in held.items() if row.get("open_time_ms", "").isdigit()}
    differing = [name for name in stores.hot.differing(latest_values(stores.market, opens)) if name in symbols]
    return f"latest:{differing[0]}: not what the database holds" if differing else None


def answers_soon(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """Each question was last answered soon enough, and reads no big table from end to end."""
    from resources.timescale.loop import wait
    from resources.timescale.monitor import latest, too_slow

    found = too_slow(wait(stores.market.connections.run(lambda c: latest(c, "query_latencies"))))
    return found[0] if found else None


def has_room(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """The disk lasts, tables are as small as they can be, and schema and jobs of the server are ours."""
    from resources.timescale.loop import wait
    from resources.timescale.monitor import latest, too_large
    from resources.timescale.server import findings

    connections = stores.market.connections
    found = too_large(wait(connections.run(lambda c: latest(c, "table_sizes"))))
    found += [f"{said.what}: {said.trouble}" for said in wait(connections.run(findings)) if said.trouble]
    return found[0] if found else None


def nothing_refused(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """No rows wait as dead letters, and few frames of a day could not be read."""
    from resources.refusals import too_many
    from resources.timescale.loop import wait
    from resources.timescale.monitor import latest

    found = too_many(wait(stores.market.connections.run(lambda c: latest(c, "rows_refused"))))
    return found[0] if found else None


def as_rebuilt(stores: "Stores", symbols: Sequence[str]) -> Finding:
    """The day that was last made anew from the journal is, row for row, the one that is stored."""
    from resources.rebuild import differing

    found = differing(stores.market, symbols)
    return found[0] if found else None


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
    "trade_batches": ("batches_hold_ledger", batches_hold_ledger("spot")),
    "contract_batches": ("batches_hold_ledger", batches_hold_ledger("usdm")),
    "agg_trades": ("ids_contiguous", trades_contiguous),
    "trade_reconciliation": ("sources_agree", sources_agree),
    "lmdb_candles": ("equals_projection", lmdb_as_projected("candles")),
    "lmdb_indicators": ("equals_projection", lmdb_as_projected("indicators")),
    "qdrant_points": ("count_equals_features", points_as_uploaded),
    "profile_minutes": ("equal_trades", minutes_merge_to_trades),
    "derivatives": ("covered_and_as_kept", derivatives_as_kept),
    "lake": ("as_exported", lake_as_exported),
    "retention": ("dropped_is_in_lake", dropped_is_in_lake),
    "hot_values": ("equals_database", hot_as_database),
    "query_latencies": ("answers_soon", answers_soon),
    "table_sizes": ("has_room", has_room),
    "rows_refused": ("nothing_refused", nothing_refused),
    "live_equals_rebuild": ("as_rebuilt", as_rebuilt),
    **{asset: (rule.check, rows_as_made(asset, rule)) for asset, rule in RULES.items()},
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
