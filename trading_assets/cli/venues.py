"""What can be said of venues whose trade ids are identities: `gaps --venue` and `coverage --venue`.

The answer comes from the venue's journal alone and needs no database. Nothing in it is ever complete: a day is `unproven`
at best (docs/adr/0012).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from trading.errors import TradingError
from trading.market.timeframe import DAY_MS
from trading_assets.cli.gaps import SIGNS, NotCollected

if TYPE_CHECKING:
    from resources.home import Home
    from trading.stream.identities import Stretch

VENUES: Final = ("bybit", "hyperliquid")
MOST_DAYS: Final = 30
UNPROVEN: Final = {"unproven": "?", "degraded": SIGNS["degraded"], "missing": SIGNS["missing"]}
"""Signs of states: nothing is known to be missing; some time of the day is missing; all of it is."""


class UnknownVenue(TradingError):
    """No venue of this name is known."""


def require_venue(venue: str) -> None:
    """Raise `UnknownVenue` unless it is a venue whose ids prove nothing."""
    if venue not in VENUES:
        raise UnknownVenue(f"{venue!r} is no venue whose ids prove nothing", f"known are {' and '.join(VENUES)}")


def stretches(home: "Home", venue: str, symbol: str) -> tuple[dict[str, list["Stretch"]], list[str]]:
    """Return what can be said of the time of each market, or of one, and what the reader must know of that.

    Raises:
        UnknownVenue: No journal of this name is such a venue's.
        NotCollected: The home has no journal of this venue, or nothing of the symbol.
    """
    from resources.identity_journal import IdentityJournal
    from resources.writer_lock import is_held

    require_venue(venue)
    home.require()
    folder = home.journal_dir(venue)
    if not folder.exists():
        raise NotCollected(
            f"{venue} is not collected in this home",
            f"python -m resources.identity_collector --venue {venue} --symbols … --journal {folder}",
        )
    collecting = is_held(folder / "writer.lock")  # before the reader, which may hold it itself
    with IdentityJournal.read(folder) as journal:
        found, warnings = {name: journal.stretches(name) for name in sorted(journal.instruments())}, journal.warnings
    if not collecting:
        warnings.append(f"no collector of {venue} runs: nothing is known since the newest trade")
    if symbol and symbol not in found:
        raise NotCollected(f"{symbol} of {venue} is not collected in this home", f"known are {', '.join(found)}")
    return {symbol: found[symbol]} if symbol else found, warnings


def gaps(home: "Home", venue: str, symbol: str) -> dict[str, Any]:
    """Return the stretches of time in which trades may be missing, how much time is unproven besides, and until when.

    `until` has the exchange time of the newest trade by symbol, None where there is none: of later time nothing is said.
    """
    totals, rows = Counter(unproven=0, missing=0), list[dict[str, Any]]()
    markets, warnings = stretches(home, venue, symbol)
    for name, found in markets.items():
        for one in found:
            totals[one.state] += one.until_ms - one.from_ms
            if one.state == "missing":
                span = {"from_time": _moment(one.from_ms), "until_time": _moment(one.until_ms)}
                rows.append({"symbol": name, "state": one.state, **span, "ms": one.until_ms - one.from_ms})
    until = {name: _moment(found[-1].until_ms - 1) if found else None for name, found in markets.items()}
    return {"venue": venue, "gaps": rows, "ms": dict(totals), "until": until, "warnings": warnings}


def coverage(home: "Home", venue: str, symbol: str, lo_ms: int | None, hi_ms: int | None) -> dict[str, Any]:
    """Return coverage by symbol and day, up to the newest trade, and how many days are in which state."""
    markets, warnings = stretches(home, venue, symbol)
    rows = [
        {"symbol": name, "dataset": "trades", **day}
        for name, found in markets.items()
        for day in days(found, lo_ms, hi_ms)
    ]
    counted = Counter(row["state"] for row in rows)
    return {"days": rows, "summary": {name: counted[name] for name in UNPROVEN}, "warnings": warnings}


def days(found: Sequence["Stretch"], lo_ms: int | None = None, hi_ms: int | None = None) -> list[dict[str, Any]]:
    """Return the state of each UTC day that opens in `[lo_ms, hi_ms)`, of the last thirty where no `lo_ms` is given.

    What was before the first trade of its day is missing; what comes after the newest one is not known yet.
    """
    if not found:
        return []
    rows: list[dict[str, Any]] = []
    end_ms = found[-1].until_ms
    lo_ms = end_ms - MOST_DAYS * DAY_MS if lo_ms is None else lo_ms
    for day_ms in range(found[0].from_ms // DAY_MS * DAY_MS, end_ms, DAY_MS):
        if day_ms < lo_ms or (hi_ms is not None and day_ms >= hi_ms):
            continue
        until_ms = min(day_ms + DAY_MS, end_ms)
        spans = [(max(s.from_ms, day_ms), min(s.until_ms, until_ms)) for s in found if s.state == "unproven"]
        unproven_ms = sum(max(0, hi - lo) for lo, hi in spans)
        missing_ms = until_ms - day_ms - unproven_ms
        state = "missing" if not unproven_ms else "degraded" if missing_ms else "unproven"
        named = {"day": _moment(day_ms)[:10], "state": state}
        rows.append(named | {"unproven_ms": unproven_ms, "missing_ms": missing_ms})
    return rows


def print_gaps(answer: dict[str, Any]) -> None:
    """Print the stretches as a table, newest last."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "symbol", "from (UTC)", "to (UTC)", "seconds", title=f"Time in which trades of {answer['venue']} may lack"
    )
    for row in answer["gaps"]:
        table.add_row(row["symbol"], row["from_time"], row["until_time"], f"{row['ms'] / 1000:.3f}")
    console = Console(soft_wrap=True)
    if answer["gaps"]:
        console.print(table)
    for name, until in answer["until"].items():
        console.print(f"{name} is known up to {until}" if until else f"of {name} nothing is known")
    for warning in answer["warnings"]:
        console.print(f"! {warning}")
    missing_s, unproven_s = answer["ms"]["missing"] / 1000, answer["ms"]["unproven"] / 1000
    console.print(
        f"{missing_s:.3f} s are missing, {unproven_s:.3f} s are unproven: nothing is known to lack there, no id proves it."
    )


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
