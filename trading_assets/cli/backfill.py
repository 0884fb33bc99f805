"""Past days of one symbol brought into the database as trades, and what they then prove.

A day comes from the journal, else from its file in the exchange's archive, else page by page over REST. A simulated home
has its exchange with it, which archives its past days too; so the same works offline.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trading.errors import TradingError
from trading.market.archive import BadArchive
from trading.market.timeframe import DAY_MS
from trading.stream.contiguity import gaps

if TYPE_CHECKING:
    from resources.home import Home
    from resources.journal import TradeJournal
    from resources.settings import Settings
    from resources.stores import Stores

MOST_DAYS = 1_000
Show = Callable[[str, float, int], None]


class BadDays(TradingError):
    """The days of a backfill cannot be."""


class NoSource(TradingError):
    """Nothing is set from which past days could come."""


def backfill(home_path: Path, symbol: str, lo_ms: int, hi_ms: int, quiet: bool) -> dict[str, Any]:
    """Bring the UTC days of `[lo_ms, hi_ms)` into the database; return a report by day.

    A file of the archive that cannot be taken is reported with its day, and the other days go on.

    Raises:
        BadDays: They are none, too many, or no whole days.
        NoSource: Neither an exchange nor an archive is set, and the home is not simulated.
        UnknownSymbol: The exchange does not trade the symbol.
    """
    if lo_ms % DAY_MS or hi_ms % DAY_MS or not 0 < hi_ms - lo_ms <= MOST_DAYS * DAY_MS:
        raise BadDays(
            f"{_moment(lo_ms)} to {_moment(hi_ms)} are not 1 to {MOST_DAYS} whole days",
            "write --start 2026-11-01 --end 2026-11-20",
        )
    from resources.home import Home
    from resources.settings import load_settings
    from resources.stores import open_stores

    home = Home(home_path)
    with _sources(home, load_settings(home_path)), open_stores(home_path) as stores:
        if symbol not in stores.market.instruments():
            stores.market.register(stores.exchange.instruments((symbol,)).values())
        days = list(range(lo_ms, hi_ms, DAY_MS))
        rows = _brought(stores, symbol, days, quiet)
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("proven", "degraded", "missing")}
    return {
        "symbol": symbol,
        **counts,
        "refused": sum("refused" in row for row in rows),
        "trades": sum(row["trades"] for row in rows),
        "days": rows,
    }


def _brought(stores: "Stores", symbol: str, days: list[int], quiet: bool) -> list[dict[str, Any]]:
    from resources.journal import TradeJournal
    from resources.journal_coverage import take_over_coverage
    from resources.timescale.tables import TRADE
    from trading_assets.cli.progress import day_bar

    span = days[0], days[-1] + DAY_MS
    rows, fetched = list[dict[str, Any]](), 0
    with TradeJournal.read(stores.home.rocksdb_dir) as journal, day_bar(symbol, len(days), quiet) as show:
        for place, day_ms in enumerate(days):
            show(_day(day_ms), place, fetched)
            rows.append(_one_day(stores, journal, symbol, day_ms, partial(_within, show, place, day_ms, fetched)))
            fetched += rows[-1]["inserted"]
        # The edges of a day are proven by its neighbours, which are all there only now.
        lookup = partial(stores.exchange.trade, stores.market.instrument(symbol))
        take_over_coverage(journal, stores.market, symbol, *span, lookup)
        show("done", len(days), fetched)
    stored = stores.market.record_days(TRADE, "agg_trades", symbol, *span)
    proven = stores.market.proven(symbol)
    return [row | _proof(proven, day_ms, stored.get(row["day"], 0)) for row, day_ms in zip(rows, days, strict=True)]


def _within(show: Show, place: int, day_ms: int, before: int, time_ms: int, trades: int) -> None:
    """Show how far the pages of one day have come."""
    show(f"{_day(day_ms)} over REST", place + (time_ms - day_ms) / DAY_MS, before + trades)


def _one_day(
    stores: "Stores", journal: "TradeJournal", symbol: str, day_ms: int, far: Callable[[int, int], None]
) -> dict[str, Any]:
    """Bring one day in: as the asset does, and over REST what is not proven then."""
    from resources.past_days import store_trades, take_from_exchange
    from trading.stream.contiguity import count_of

    row: dict[str, Any] = {"day": _day(day_ms), "inserted": 0, "updated": 0, "over_rest": 0}
    try:
        stored = store_trades(stores, journal, symbol, day_ms, day_ms + DAY_MS)
    except BadArchive as error:
        row["refused"] = f"{type(error).__name__}: {error.message}"
    else:
        row |= {"inserted": stored.written.inserted, "updated": stored.written.updated}
        for day in stored.archived:
            changes = {name: count_of(getattr(day.version, name)) for name in ("added", "changed", "kept", "withdrawn")}
            row["archive"] = {"version": day.version.version, "sha256": day.version.sha256, **changes}
    if gaps(day_ms, day_ms + DAY_MS, stores.market.proven(symbol)) and stores.settings.exchange_rest_url:
        over_rest = take_from_exchange(stores.market, stores.exchange, stores.market.instrument(symbol), day_ms, far)
        row["over_rest"] = over_rest.inserted
        row["inserted"] += over_rest.inserted
    return row


def _proof(proven: list[tuple[int, int]], day_ms: int, trades: int) -> dict[str, Any]:
    """Return the verdict on a day and where it is not proven."""
    holes = gaps(day_ms, day_ms + DAY_MS, proven)
    verdict = (
        "proven" if not holes else "missing" if not trades and holes == [(day_ms, day_ms + DAY_MS)] else "degraded"
    )
    return {"trades": trades, "verdict": verdict, "unproven": [[_moment(lo), _moment(hi)] for lo, hi in holes]}


@contextmanager
def _sources(home: "Home", settings: "Settings") -> Iterator[None]:
    """Make sure that past days can come from somewhere: what is set, else a simulated home's own exchange."""
    if settings.exchange_rest_url or settings.archive_url:
        made = (home.path / "home.json").exists()
        home.create(home.kind if made else "live", home.clock)
        yield
        return
    clock = home.clock
    if clock.get("source") != "synthetic":
        raise NoSource(
            f"nothing is set from which past days of {home.path} could come",
            "set TRADING_ARCHIVE_URL or TRADING_EXCHANGE_REST_URL, or run 'trading demo' first",
        )
    from trading_assets.cli.demo import simulated_exchange

    now_ms = time.time_ns() // 1_000_000
    arguments = ("--seed", str(clock["seed"]), "--symbols", ",".join(clock["symbols"]))
    with simulated_exchange(home, (now_ms, now_ms), arguments, dict(os.environ)) as url:
        added = {"TRADING_EXCHANGE_REST_URL": url, "TRADING_ARCHIVE_URL": url}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
