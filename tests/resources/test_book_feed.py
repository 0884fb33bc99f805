"""Order books are kept on through what comes over the weeks: an outage, a silence, an exchange that answers nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from resources.binance import BinanceRest
from resources.book_feed import BookFeed
from resources.journal import TradeJournal
from resources.simulator.faults import FaultPlan
from resources.simulator.synthetic import SyntheticMarket
from tests.resources.simulated import START_MS, Exchange, exchange
from trading.market.timeframe import DAY_MS, MINUTE_MS
from trading.stream.book_sync import Reason

NAMES = ("BTCUSDT", "ETHUSDT")
MARKET = SyntheticMarket(11, NAMES, trades_per_second=20)


@asynccontextmanager
async def books(journal: TradeJournal) -> AsyncIterator[tuple[BookFeed, Exchange]]:
    """Yield a feed that keeps the books of a market beside the wall clock, when the books of all symbols are in step."""
    async with exchange([MARKET], START_MS, START_MS + DAY_MS, speed=1.0) as one:
        rest = BinanceRest(one.http)
        feed = BookFeed(journal, rest, one.ws, {name: MARKET.instrument(name) for name in NAMES})
        keeping = asyncio.create_task(feed.run())
        try:
            await until(lambda: all(journal.book_before(name, START_MS + DAY_MS) for name in NAMES), keeping)
            yield feed, one
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await rest.close()


async def until(holds: Callable[[], object], keeping: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(20):
        while not holds():
            assert not keeping.done()
            await asyncio.sleep(0.05)


def test_books_are_kept_again_after_an_outage_of_any_length(tmp_path: Path) -> None:
    async def outage(journal: TradeJournal) -> None:
        async with books(journal) as (_, one):
            connections = one.server._connections
            for connection in list(connections):
                connection.cut()
            while connections:
                await asyncio.sleep(0)
            one.server.clock.start_ms += 20 * MINUTE_MS
            back_ms = one.server.clock.now_ms()
            async with asyncio.timeout(20):
                while not journal.books(NAMES[0], back_ms, START_MS + DAY_MS):
                    await asyncio.sleep(0.05)

    with TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(outage(journal))


def test_books_in_step_are_stored_while_rest_answers_nobody(tmp_path: Path) -> None:
    async def refused(journal: TradeJournal) -> None:
        async with books(journal) as (feed, one):
            one.server.faults = FaultPlan(rest_418=1.0, retry_after_s=DAY_MS // 1000)
            feed._recorders[NAMES[0]].resync(Reason.GAP)
            await asyncio.sleep(1.5)
            since_ms = one.server.clock.now_ms()
            async with asyncio.timeout(10):
                while not journal.books(NAMES[1], since_ms, START_MS + DAY_MS):
                    await asyncio.sleep(0.05)

    with TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(refused(journal))
