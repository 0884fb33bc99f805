"""The last step of the live path: what came live of each symbol into the database, and what it proves.

Nothing is proven by rows that may not be there. Where some were lost on the way, as the database was away or too many
waited, nothing of their symbol is written until the journal has been read again from there; so a range that is proven
grows at its end, without an id between it and the next, unless more was lost than is read again.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Final

import asyncpg
import polars as pl

from resources.live_store import Gathered, Outcome
from resources.live_tap import Batch, LiveTap
from resources.retention import verified_until_ms
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.quarantine import RefusedRows
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, TRADE
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.provider.validation import DataValidator
from trading.stream.contiguity import IdRange
from trading.stream.live_bars import Closed, LiveBars

STORE_S: Final = 1.0
"""How often rows go into the database, as each write has its price; Redis tells who wants to know at once."""

MOST_ROWS: Final = 500_000
"""Of a symbol that wait to be written; more of them are read again from the journal."""

MOST_BOOKS: Final = 20_000
"""Books of a symbol and their seconds, of three hours, in 15 MiB; more of them are left to the day's assets."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0

AWAY: Final = (OSError, TimeoutError, TradingError, asyncpg.InterfaceError, asyncpg.PostgresError)

_log = logging.getLogger(__name__)


class LiveWriter:
    """Writes what gathers, as long as the database answers.

    Args:
        tap: Tells the exchange's clock.
        instruments: What is collected, by name.
        market: Opens the market database.
        claims: What the journal claimed before, of each symbol of which it did.
        letters: Where rows go that the database refuses, with those beside that cannot have happened.
        read_again: Has the journal of a symbol read again from a moment on (ms).
        reach_ms: How far back that is.
        statistics: Counts what is done.
    """

    def __init__(
        self,
        tap: LiveTap,
        instruments: Mapping[str, Instrument],
        market: Callable[[], AbstractContextManager[MarketStore]],
        claims: Mapping[str, list[IdRange]],
        letters: DeadLetters,
        read_again: Callable[[str, int], None],
        reach_ms: int,
        statistics: Counter[str],
    ) -> None:
        self._tap, self._instruments, self._open, self._claims = tap, instruments, market, claims
        self._letters, self._read_again, self._reach_ms = letters, read_again, reach_ms
        self._checks = DataValidator(instruments, lambda: tap.newest_ms, RefusedRows(letters.refused_file))
        self._unproven = set[str]()
        """Symbols of which a trade is not stored: what is proven of them is left to the day's assets."""
        self._market: MarketStore | None = None
        self._stack = ExitStack()
        self._order = list(instruments)
        """In which symbols are written."""
        self._gathered = {name: Gathered(name) for name in instruments}
        self._books = {name: Gathered(name) for name in instruments}
        self._lock = threading.Lock()
        self._lost: dict[str, int] = {}
        """Since when what came of a symbol is not in the database."""
        self._asked = set[str]()
        """Those of them whose journal is about to be read again."""
        self._pause_s = FIRST_PAUSE_S
        self.ended = asyncio.Event()
        """Set when nothing more comes."""
        self.statistics = statistics

    # -- what comes --------------------------------------------------------------------------------------------------

    def begin(self, symbol: str, since_ms: int) -> None:
        """Note that everything of a symbol since a moment comes anew from now on."""
        if symbol in self._lost:
            self._lose(symbol)  # what has gathered may rest on what was lost
        with self._lock:
            lost_ms = self._lost.get(symbol)
            if lost_ms is not None and since_ms <= max(lost_ms, self._tap.clock_ms - self._reach_ms):
                del self._lost[symbol]
                self._asked.discard(symbol)

    def take(self, batch: Batch, trades: pl.DataFrame, closed: list[Closed], bars: LiveBars) -> None:
        """Take trades, the bars that they closed, and those that hold all trades that have come since a moment."""
        gathered = self._gathered[batch.symbol]
        gathered.add(TRADE, trades, batch.clock_ms)
        for rows in closed:
            gathered.add_closed(rows, batch.clock_ms)
        gathered.prove(batch.ranges, bars.trades, bars.start_ms)
        if batch.symbol in self._lost or gathered.rows > MOST_ROWS:
            self._lose(batch.symbol)

    def take_books(self, symbol: str, books: pl.DataFrame, seconds: pl.DataFrame, clock_ms: int) -> bool:
        """Take order books and their seconds; return whether there was room."""
        gathered = self._books[symbol]
        if gathered.rows >= MOST_BOOKS:
            return False
        gathered.add(BOOK_SNAPSHOT, books, clock_ms)
        gathered.add(BOOK_1S, seconds, clock_ms)
        return True

    def lose(self, symbol: str, since_ms: int) -> None:
        """Note that what came of a symbol since a moment is not in the database, and is to be read again."""
        with self._lock:
            if since_ms < self._lost.get(symbol, since_ms + 1):
                self._lost[symbol] = since_ms
                self._asked.discard(symbol)

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows of trades and bars that wait."""
        return sum(gathered.rows for gathered in self._gathered.values())

    @property
    def lacks(self) -> bool:
        """Whether something that came is not in the database and does not wait for it either."""
        return bool(self._lost)

    def market(self) -> MarketStore | None:
        """Return the database where it answers."""
        return None if self._away else self._market

    def status(self) -> dict[str, Any]:
        """Return what waits, since when symbols' rows are not in the database, and what was refused."""
        rows = self.rows + sum(books.rows for books in self._books.values())
        return {"rows_waiting": rows, "not_in_database": dict(self._lost), "checks": self._checks.told}

    # -- into the database -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write what gathers, until the last of it; no write is left in the middle."""
        pause_s, last = 0.0, False
        while not last:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), pause_s)
            pause_s, last = STORE_S, self.ended.is_set()
            try:
                if self._away:
                    await self._reach()
                await self._store()
            except AWAY as error:
                _log.warning("the market database is away: %s", error)
                for symbol in self._order:
                    self._lose(symbol)
            if self._away:
                pause_s = self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            else:
                self._pause_s = FIRST_PAUSE_S

    def close(self) -> None:
        """Close the database."""
        self._stack.close()

    @property
    def _away(self) -> bool:
        return self._market is None or bool(self._lost.keys() - self._asked)

    async def _reach(self) -> None:
        """Open the database, or find that it answers again, and have read again what it lacks."""
        if self._market is None:
            market, lacking = await asyncio.to_thread(self._opened)
            for symbol, since_ms in lacking.items():
                self.lose(symbol, since_ms)
            self._market = market
        else:
            await asyncio.to_thread(self._market.fetch, "SELECT 1")
        for symbol in self._lost.keys() - self._asked:
            self._asked.add(symbol)
            self._read_again(symbol, self._lost[symbol])

    def _opened(self) -> tuple[MarketStore, dict[str, int]]:
        """Return the database, and since when it lacks what the journal claimed; where it goes away, all is done again."""
        lacking = dict[str, int]()
        with ExitStack() as opening:
            market = opening.enter_context(self._open())
            market.register(self._instruments.values())
            for symbol, claims in self._claims.items():
                done_ms = verified_until_ms(claims, market.trade_coverage(symbol))
                lacking[symbol] = max(done_ms, claims[-1].proven_until_ms - self._reach_ms)
            self._stack = opening.pop_all()
        return market, lacking

    async def _store(self) -> None:
        """Write what has gathered."""
        for symbol in list(self._order):
            market = self.market()
            if market is None or symbol in self._lost:
                self._lose(symbol)
            else:
                gathered, self._gathered[symbol] = self._gathered[symbol], Gathered(symbol)
                if not await self._written(gathered, market):
                    self._note_lost(gathered)
                    # Where it alone cannot be written, it must not keep the others from it.
                    self._order.remove(symbol)
                    self._order.append(symbol)
            if market is not None:
                books, self._books[symbol] = self._books[symbol], Gathered(symbol)
                if not await self._written(books, market):
                    self._books[symbol] = books.joined(self._books[symbol])

    async def _written(self, gathered: Gathered, market: MarketStore) -> bool:
        """Write rows; return whether they are there, or were set aside."""
        if gathered.empty:
            return True
        symbol, began_s = gathered.symbol, time.monotonic()
        try:
            claiming = symbol not in self._unproven
            outcome = await asyncio.to_thread(gathered.write, market, self._checks, self._letters.write, claiming)
        except AWAY as error:
            _log.warning("%s: not written: %s: %s", symbol, type(error).__name__, error)
            return False
        self._note(symbol, outcome)
        self.statistics["store_ms"] = round(1000 * (time.monotonic() - began_s))
        return True

    def _note(self, symbol: str, outcome: Outcome) -> None:
        self.statistics["changed"] += outcome.changed
        if outcome.aside:
            self.statistics["refused"] += outcome.aside
            _log.error("%s: %d rows are not stored, see 'trading replay --dry-run'", symbol, outcome.aside)
        if outcome.trades_lack:
            self._unproven.add(symbol)

    def _lose(self, symbol: str) -> None:
        """Let go of what has gathered of trades; it is read again from the journal. Books wait."""
        gathered, self._gathered[symbol] = self._gathered[symbol], Gathered(symbol)
        self._note_lost(gathered)

    def _note_lost(self, gathered: Gathered) -> None:
        if gathered.since_ms is not None:
            self.lose(gathered.symbol, gathered.since_ms)
