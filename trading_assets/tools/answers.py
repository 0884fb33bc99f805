"""The questions: each answers with a measure and with what that rests on.

An answer holds `as_of, newest_event, staleness_s, completeness, source, warnings` beside its `result`. A question that
cannot be answered raises the measure's own error; nothing is guessed and nothing unknown is written as 0.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from trading.errors import TradingError
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, SECOND_MS
from trading.microstructure.anomalies import absorptions, flash_crashes
from trading.microstructure.l1 import l1_metrics
from trading.microstructure.order_flow import order_flow
from trading.microstructure.report import SECTIONS, Known, MarketReport, Missing, both, markdown
from trading.microstructure.survey import Observed, survey
from trading.microstructure.vacuums import stop_advice, vacuums_in_book, vacuums_in_profile
from trading.microstructure.volume_profile import volume_profile
from trading_assets.tools.sources import observe

if TYPE_CHECKING:
    from resources.stores import Stores

LONGEST_HOURS: Final = 168
LONGEST_SECONDS: Final = 3600
MOST_LEVELS: Final = 20
STALE_S: Final = 60
HEALTH_S: Final = 300

T = TypeVar("T")


class NotKnown(TradingError):
    """What a question needs is not there."""


class BadArgument(TradingError):
    """An argument is out of its range."""


class Markets:
    """The questions about the markets of one home.

    All take a symbol by its exchange name and `as_of`, an ISO time (UTC without an offset) after which nothing is looked
    at; without it the newest event that is there.

    Args:
        stores: Open stores.
        clock: Seconds since the epoch, to tell how old an answer is.
    """

    def __init__(self, stores: "Stores", clock: Callable[[], float] = time.time) -> None:
        self._stores, self._clock = stores, clock

    def volume_profile(
        self, symbol: str, duration_hours: int = 24, bin_size: str = "", as_of: str = ""
    ) -> dict[str, Any]:
        """Volume by price: point of control, value area of 70 %, and every bin.

        Args:
            symbol: Exchange name, e.g. BTCUSDT.
            duration_hours: Hours up to `as_of`, 1 to 168.
            bin_size: Width of a bin in quote currency, a multiple of the tick; empty: chosen by the price range.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, hours=duration_hours)
        ticks = _bin_ticks(seen.instrument, bin_size)
        return self._answer(
            seen, seen.trades, lambda trades: volume_profile(trades, seen.instrument, *_window(seen.trades), ticks)
        )

    def liquidity_vacuums(
        self, symbol: str, duration_hours: int = 24, source: str = "trades", as_of: str = ""
    ) -> dict[str, Any]:
        """Price ranges where hardly anything traded (or rests), with severity, and stops that stay out of them.

        Args:
            symbol: Exchange name.
            duration_hours: Hours of trades up to `as_of`, 1 to 168.
            source: `trades`, or `book` for the newest order book.
            as_of: ISO time; empty: the newest event.
        """
        if source not in ("trades", "book"):
            raise BadArgument(f"source {source!r} is neither 'trades' nor 'book'")
        seen = self._observe(symbol, as_of, hours=duration_hours)
        instrument = seen.instrument
        if source == "book":
            return self._answer(seen, seen.books, lambda books: vacuums_in_book(books[-1], instrument))
        window = _window(seen.trades)

        def vacuums(trades: Any) -> dict[str, Any]:
            profile = volume_profile(trades, instrument, *window)
            found = vacuums_in_profile(profile)
            price = instrument.price(int(trades["price"][-1]))
            stops = [stop_advice(found, position, price, instrument) for position in ("long", "short")]
            return {"vacuums": found, "price": price, "stops": stops}

        return self._answer(seen, seen.trades, vacuums)

    def order_flow(self, symbol: str, window_duration_secs: int = 60, as_of: str = "") -> dict[str, Any]:
        """What takers bought and sold, their difference, and which side presses.

        Args:
            symbol: Exchange name.
            window_duration_secs: Seconds up to `as_of`, 10 to 3600.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, seconds=window_duration_secs)
        window = _window(seen.recent_trades)
        return self._answer(seen, seen.recent_trades, lambda trades: order_flow(trades, seen.instrument, *window))

    def market_anomalies(self, symbol: str, window_duration_secs: int = 60, as_of: str = "") -> dict[str, Any]:
        """Absorption and flash crashes; icebergs and quote stuffing are refused by name, as they need raw diffs.

        Args:
            symbol: Exchange name.
            window_duration_secs: Seconds up to `as_of`, 10 to 3600.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, seconds=window_duration_secs)
        refused = "needs raw depth diffs, which a book once a second does not carry"

        def anomalies(known: Any) -> dict[str, Any]:
            books, trades = known
            return {
                "absorption": absorptions(books, trades, seen.instrument),
                "flash_crashes": flash_crashes(books, trades, seen.usual_spread_bps),
                "not_looked_for": {"iceberg": refused, "quote_stuffing": refused},
            }

        return self._answer(seen, both(seen.books, seen.recent_trades), anomalies)

    def microstructure_health(self, symbol: str, as_of: str = "") -> dict[str, Any]:
        """How well a market stands, 0 to 100, of spread, depth, flow and update rate; unknown parts are left out and named.

        Args:
            symbol: Exchange name.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, seconds=HEALTH_S)
        return self._answer(seen, survey(seen).health, lambda health: health)

    def orderbook_l1(self, symbol: str, as_of: str = "") -> dict[str, Any]:
        """The top of the newest book: spread, microprice, imbalance, walls, and the cost of market orders.

        Args:
            symbol: Exchange name.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of)
        return self._answer(seen, seen.books, lambda books: l1_metrics(books[-1], seen.instrument))

    def orderbook_l2(self, symbol: str, levels: int = MOST_LEVELS, as_of: str = "") -> dict[str, Any]:
        """The best levels of the newest book, prices and quantities as decimal text.

        Args:
            symbol: Exchange name.
            levels: Of each side, 1 to 20.
            as_of: ISO time; empty: the newest event.
        """
        _require("levels", levels, 1, MOST_LEVELS)
        seen = self._observe(symbol, as_of)
        return self._answer(seen, seen.books, lambda books: _levels(books[-1], levels, seen.instrument))

    def orderbook_health(self, symbol: str, as_of: str = "") -> dict[str, Any]:
        """Whether the book is kept without a break: how many seconds of the last five minutes it is known.

        Args:
            symbol: Exchange name.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, seconds=HEALTH_S)

        def health(books: Sequence[BookSnapshot]) -> dict[str, Any]:
            basis = seen.books.basis[0]
            return {"records": len(books), "known_share": basis.covered, "last_update_id": books[-1].last_update_id}

        return self._answer(seen, seen.books, health)

    def report(
        self,
        symbol: str,
        include_sections: list[str] | None = None,
        volume_window_hours: int = 24,
        recent_secs: int = 60,
        as_of: str = "",
    ) -> dict[str, Any]:
        """All of it as Markdown; each section says what it rests on, or why it is missing.

        Args:
            symbol: Exchange name.
            include_sections: Names of sections; none: all.
            volume_window_hours: Hours of trades for profile and vacuums, 1 to 168.
            recent_secs: Seconds for flow, anomalies and health, 10 to 3600.
            as_of: ISO time; empty: the newest event.
        """
        seen = self._observe(symbol, as_of, hours=volume_window_hours, seconds=recent_secs)
        made: MarketReport = survey(seen)
        text = markdown(made, include_sections or SECTIONS)
        sources = Known(text, seen.trades.basis + seen.books.basis)
        return self._answer(seen, sources, lambda report: {"markdown": report})

    # -- answers -----------------------------------------------------------------------------------------------------

    def _observe(self, symbol: str, as_of: str, hours: int = 1, seconds: int = 60) -> Observed:
        _require("hours", hours, 1, LONGEST_HOURS)
        _require("seconds", seconds, 10, LONGEST_SECONDS)
        return observe(self._stores, symbol, _moment_ms(as_of), hours * HOUR_MS, seconds * SECOND_MS)

    def _answer(self, seen: Observed, source: Known[T] | Missing, measure: Callable[[T], Any]) -> dict[str, Any]:
        if isinstance(source, Missing):
            raise NotKnown(source.reason, source.hint)
        result = measure(source.value)
        newest_ms = max((basis.newest_ms for basis in source.basis if basis.newest_ms is not None), default=None)
        staleness_s = None if newest_ms is None else round(self._clock() - newest_ms / 1000, 3)
        covered = [basis.covered for basis in source.basis]
        completeness = None if None in covered or not covered else min(c for c in covered if c is not None)
        return {
            "symbol": seen.instrument.name,
            "venue": seen.instrument.venue,
            "as_of": _iso(seen.as_of_ms),
            "newest_event": None if newest_ms is None else _iso(newest_ms),
            "staleness_s": staleness_s,
            "completeness": completeness,
            "source": [basis.source for basis in source.basis],
            "warnings": [*seen.warnings, *_warnings(staleness_s, completeness)],
            "result": msgspec.to_builtins(result),
        }


def _warnings(staleness_s: float | None, completeness: float | None) -> Sequence[str]:
    found: list[str] = []
    if staleness_s is None:
        found.append("there is no event in the window")
    elif staleness_s > STALE_S:
        found.append(f"the newest event is {staleness_s:.0f} s old: is the collector running?")
    if completeness is None:
        found.append("nothing proves that the window is complete")
    elif completeness < 1:
        share = int(1000 * completeness) / 10
        found.append(f"{share:g} % of the window is proven complete; 'trading gaps' says what is missing")
    return found


def _window(source: Known[Any] | Missing) -> tuple[int, int]:
    return source.basis[0].lo_ms, source.basis[0].hi_ms


def _levels(book: BookSnapshot, levels: int, instrument: Instrument) -> Mapping[str, Any]:
    def side(rows: Any) -> list[list[str]]:
        return [
            [instrument.price_text(price), instrument.quantity_text(lots)] for price, lots in rows[:levels].tolist()
        ]

    return {"last_update_id": book.last_update_id, "bids": side(book.bids), "asks": side(book.asks)}


def _bin_ticks(instrument: Instrument, bin_size: str) -> int | None:
    if not bin_size:
        return None
    try:
        ticks = Decimal(bin_size).scaleb(instrument.price_decimals)
    except InvalidOperation:
        ticks = Decimal(0)
    if not ticks.is_finite() or ticks < 1 or ticks != ticks.to_integral_value():
        tick = Decimal(1).scaleb(-instrument.price_decimals)
        raise BadArgument(
            f"bin_size {bin_size!r} is no multiple of the tick", f"the tick of {instrument.name} is {tick}"
        )
    return int(ticks)


def _require(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BadArgument(f"{value} {name} are not possible", f"ask for {low} to {high}")


def _moment_ms(text: str) -> int | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadArgument(f"as_of {text[:40]!r} is no ISO time", "write 2026-11-20T12:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


TOOLS: Final[Mapping[str, str]] = {
    "binance_get_volume_profile": "volume_profile",
    "binance_get_liquidity_vacuums": "liquidity_vacuums",
    "binance_get_order_flow": "order_flow",
    "binance_detect_market_anomalies": "market_anomalies",
    "binance_get_microstructure_health": "microstructure_health",
    "binance_orderbook_l1": "orderbook_l1",
    "binance_orderbook_l2": "orderbook_l2",
    "binance_orderbook_health": "orderbook_health",
    "market_generate_report": "report",
}
"""Name of each tool, as LLM interfaces accept names, and the method of `Markets` behind it."""


def typed(question: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` texts as the arguments of a question.

    Raises:
        BadArgument: A name is unknown, or a value is not of its type.
    """
    known = {name: p for name, p in inspect.signature(question).parameters.items() if name != "symbol"}
    found: dict[str, Any] = {}
    for text in arguments:
        name, _, value = text.partition("=")
        if name not in known:
            raise BadArgument(f"there is no argument {name[:40]!r}", f"arguments are {', '.join(known)}")
        try:
            kind = type(known[name].default)
            found[name] = value.split(",") if kind is type(None) else kind(value)
        except ValueError:
            raise BadArgument(f"{name}={value[:40]!r} is not a number", "write name=12") from None
    return found


def method_of(tool: str) -> str:
    """Return the method behind a tool's name, which may be written with its first part dotted, as the seed did.

    Raises:
        BadArgument: There is no such tool.
    """
    for name, method in TOOLS.items():
        if tool in (name, name.replace("_", ".", 1)):
            return method
    raise BadArgument(f"there is no tool {tool[:60]!r}", f"tools are {', '.join(TOOLS)}")
