"""Bars that are made as they close are those that a rebuild makes, however their trades came."""

from collections.abc import Iterable

import polars as pl
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from resources.live_store import proven_by
from trading.indicators.recursion import indicators_of_days
from trading.market.candle import CANDLE_SCHEMA, candles_from_trades, empty_candles, merge_sources
from trading.market.instrument import Instrument
from trading.market.longer_bars import rolled_bars
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS, ROLLED_UP, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange, Ledger, united
from trading.stream.live_bars import WITH_INDICATORS, Closed, LiveBars

DAY = 1_760_000_000_000 // DAY_MS * DAY_MS
MIDNIGHT = DAY + DAY_MS
PAIR = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
KNOWN = ["known_at_ms"]


class Database:
    """What a store would hold of one symbol: the last version of each bar, but no lower rank than before."""

    def __init__(self) -> None:
        self.rows = {t: empty_candles() for t in (Timeframe.S1, *CANDLE_TIMEFRAMES)}
        self.indicators: dict[Timeframe, pl.DataFrame] = {}
        self.versions: list[Closed] = []

    def bars(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return self.rows[timeframe].filter(pl.col("open_time").is_between(lo_ms, hi_ms, "left"))

    def with_history(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        before = self.rows[timeframe].filter(pl.col("open_time") < lo_ms, pl.col("complete")).tail(2_400)
        return pl.concat([before, self.bars(timeframe, lo_ms, hi_ms).filter("complete")])

    def write(self, given: Iterable[Closed]) -> None:
        for closed in given:
            self.versions.append(closed)
            self.rows[closed.timeframe] = merge_sources(closed.bars, self.rows[closed.timeframe])
            if closed.indicators is not None:
                rows = [closed.indicators, self.indicators.get(closed.timeframe, closed.indicators.clear())]
                self.indicators[closed.timeframe] = pl.concat(rows).unique("open_time", keep="first").sort("open_time")


class Arriving:
    """Trades of a market as a collector stores them, and the bars that are made of them."""

    def __init__(self, trades: list[AggTrade], start_ms: int, database: Database | None = None) -> None:
        self.trades, self.start_ms, self.ledger = trades, start_ms, Ledger()
        self.database = database or Database()
        self.live = LiveBars(PAIR, start_ms, self.database)
        self.claims: dict[int, list[IdRange]] = {}
        """What is proven of the trades that are stored, by day, as each batch adds to it."""
        self.ledger.begin(trades[0].agg_trade_id, start_ms)

    def take(self, *ids: int, clock_ms: int = 0) -> list[Closed]:
        arrived = [self.trades[number - self.trades[0].agg_trade_id] for number in ids]
        for trade in arrived:
            self.ledger.take(trade)
        newest_ms = max(clock_ms, *(r.proven_until_ms for r in self.ledger.ranges))
        since_ms = self.live.needed_since(trades_frame(arrived), self.proven)
        if since_ms is not None:
            self.live = self.live.again_since(max(since_ms, self.start_ms))
            arrived = [t for t in self.trades if self.ledger.holds(t.agg_trade_id) and t.time_ms >= self.live.start_ms]
        given = self.live.take(trades_frame(arrived), self.proven, newest_ms)
        self.database.write(given)
        for day_ms, ranges in proven_by(
            Ledger(self.ledger.ranges).ranges, self.live.trades, self.live.start_ms
        ).items():
            self.claims[day_ms] = united([*self.claims.get(day_ms, ()), *ranges])
        return given

    @property
    def proven(self) -> list[tuple[int, int]]:
        return [(r.proven_from_ms, r.proven_until_ms) for r in self.ledger.ranges]

    def proven_at_once(self) -> dict[int, list[IdRange]]:
        """Return what is proven of all trades that were taken, by day."""
        taken = trades_frame([t for t in self.trades if self.ledger.holds(t.agg_trade_id)])
        return proven_by(self.ledger.ranges, taken, self.start_ms)

    def rebuilt(self) -> Database:
        """Make everything at once of all trades that were taken, as the day's assets do."""
        rebuilt, taken = Database(), [t for t in self.trades if self.ledger.holds(t.agg_trade_id)]
        for timeframe in (Timeframe.S1, Timeframe.M1):
            rebuilt.rows[timeframe] = candles_from_trades(trades_frame(taken), PAIR, timeframe, self.proven)
        until = Timeframe.M1.floor(max(until for _, until in self.proven))
        for timeframe in ROLLED_UP:
            lo, hi = timeframe.floor(self.start_ms), timeframe.floor(until)
            bars, _ = rolled_bars(rebuilt.bars, PAIR, timeframe, self.proven, lo, hi)
            rebuilt.rows[timeframe] = bars
            if timeframe in WITH_INDICATORS:
                candles = bars.filter("complete")
                rebuilt.indicators[timeframe] = indicators_of_days(candles, timeframe, lo, hi)
        return rebuilt


def market(times: Iterable[int], first_id: int = 100) -> list[AggTrade]:
    return [
        AggTrade(first_id + n, 6_000_000 + 37 * n % 911, 1 + n % 17, 2 * n, 2 * n + 1, time_ms, n % 3 == 0)
        for n, time_ms in enumerate(times)
    ]


def assert_same(live: Database, rebuilt: Database) -> None:
    """Compare all that has been given, but for when it was known."""
    for timeframe, rows in rebuilt.rows.items():
        ours = live.rows[timeframe]
        given = rows.filter(pl.col("open_time") <= (ours["open_time"].max() or 0))
        assert_frame_equal(ours.drop(KNOWN), given.drop(KNOWN))
    for timeframe, values in live.indicators.items():
        assert_frame_equal(values.drop(KNOWN), rebuilt.indicators[timeframe].drop(KNOWN))


def test_a_bar_is_given_with_the_first_trade_that_comes_after_its_close() -> None:
    arriving = Arriving(market([DAY + 100, DAY + 900, DAY + 1_050, DAY + MINUTE_MS]), DAY)
    assert arriving.take(100, 101) == []
    (second,) = arriving.take(102)
    assert (second.timeframe, second.bars["source"].to_list()) == (Timeframe.S1, ["trades"])
    assert second.bars["known_at_ms"].to_list() == [DAY + 1_050]
    last, minute = arriving.take(103)
    assert (last.timeframe, minute.timeframe) == (Timeframe.S1, Timeframe.M1)
    assert minute.bars.row(0, named=True)["trade_count"] == 6
    assert minute.bars.schema == CANDLE_SCHEMA


def test_a_silent_market_closes_no_bar_until_the_exchange_says_that_it_is_silent() -> None:
    arriving = Arriving(market([DAY + 100]), DAY)
    assert arriving.take(100, clock_ms=DAY + 10 * MINUTE_MS) == []
    arriving.ledger.confirm(101, DAY + MINUTE_MS + 5)
    given = arriving.live.take(trades_frame([]), arriving.proven, DAY + MINUTE_MS + 5)
    assert [closed.timeframe for closed in given] == [Timeframe.S1, Timeframe.M1]


def test_a_bar_with_a_hole_is_given_a_moment_late_as_incomplete_and_again_when_the_hole_is_filled() -> None:
    times = [DAY + 100, DAY + 30_000, DAY + 59_000, DAY + MINUTE_MS + 10, DAY + MINUTE_MS + 1_100]
    arriving = Arriving(market(times), DAY)
    arriving.take(100, 102)
    assert arriving.take(103) == [], "the missing trades may be on their way"
    given = {c.timeframe: c.bars.row(0, named=True) for c in arriving.take(104)}
    assert (given[Timeframe.M1]["source"], given[Timeframe.M1]["trade_count"]) == ("incomplete_trades", 4)
    again = {c.timeframe: c.bars.row(0, named=True) for c in arriving.take(101)}
    assert (again[Timeframe.M1]["source"], again[Timeframe.M1]["trade_count"]) == ("trades", 6)
    assert_same(arriving.database, arriving.rebuilt())


def test_what_began_before_anything_can_be_read_again_stays_as_it_was_given() -> None:
    times = [DAY + 100, DAY + 200, *(DAY + 20_000 * n for n in range(1, 60))]
    arriving = Arriving(market(times), DAY)
    for number in (100, *range(102, 100 + len(times))):
        arriving.take(number)
    late = trades_frame([arriving.trades[1]])
    arriving.ledger.take(arriving.trades[1])
    assert arriving.live.needed_since(late, arriving.proven) == DAY
    assert arriving.live.needed_since(late, arriving.proven, DAY + MINUTE_MS) is None
    assert arriving.live.needed_since(late.clear(), arriving.proven) is None, "nor does it stay wanted"


def test_a_longer_bar_is_given_again_with_the_minute_that_it_lacked_and_so_are_the_indicators_after_it() -> None:
    arriving = Arriving(market(DAY + 20_000 * n for n in range(3 * 14)), DAY)
    hole = range(100 + 31, 100 + 34)
    for number in range(100, 142):
        if number not in hole:
            arriving.take(number)
    before = arriving.database.rows[Timeframe.M3]
    assert before.filter(~pl.col("complete"))["open_time"].to_list() == [DAY + 9 * MINUTE_MS]
    given = {c.timeframe: c for c in arriving.take(*hole)}
    assert given[Timeframe.M3].bars["complete"].to_list() == [True]
    indicators = given[Timeframe.M3].indicators
    assert indicators is not None and indicators["open_time"][0] == DAY + 9 * MINUTE_MS
    assert_same(arriving.database, arriving.rebuilt())


def test_indicators_rest_on_midnight_before_their_day_as_a_rebuild_of_the_day_does() -> None:
    database = Database()
    start = MIDNIGHT - 4 * 3_600_000
    arriving = Arriving(market(start + 15_000 * n for n in range(4 * 60 * 8)), start, database)
    for first in range(100, 100 + 4 * 60 * 8, 7):
        arriving.take(*range(first, min(first + 7, 100 + 4 * 60 * 8)))
        if first % 5 == 0:
            arriving.live.prepare()
    assert len(database.indicators[Timeframe.M3]) == 159
    assert_same(database, arriving.rebuilt())


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """Draw the moments of trades, with the exchange's clock stepping back at times, and the batches in which they come."""
    steps = draw(
        st.lists(st.sampled_from([0, 1, 40, 900, 1_000, 3_000, 20_000, 61_000, 200_000]), min_size=5, max_size=60)
    )
    times, now = [], MIDNIGHT - 6 * MINUTE_MS
    for step in steps:
        now += step
        times.append(now - draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 700])))
    order = list(range(100, 100 + len(times)))
    lost = draw(st.sets(st.sampled_from(order[1:])))
    later = draw(st.permutations(sorted(lost)))
    stream = [number for number in order if number not in lost]
    for number in later:
        stream.insert(draw(st.integers(0, len(stream))), number)
    batches = []
    while stream:
        size = draw(st.integers(1, 8))
        batches.append(stream[:size])
        stream = stream[size:]
    return times, batches


@settings(max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(arrivals())
def test_however_trades_come_the_last_version_of_each_bar_is_the_rebuilt_one(
    drawn: tuple[list[int], list[list[int]]],
) -> None:
    times, batches = drawn
    arriving = Arriving(market(times), MIDNIGHT - 10 * MINUTE_MS)
    for place, batch in enumerate(batches):
        arriving.take(*batch)
        if place % 3 == 0:
            arriving.live.prepare()
    assert_same(arriving.database, arriving.rebuilt())


@settings(max_examples=300, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(arrivals())
def test_however_trades_come_all_that_they_prove_together_is_proven(drawn: tuple[list[int], list[list[int]]]) -> None:
    times, batches = drawn
    arriving = Arriving(market(times), MIDNIGHT - 10 * MINUTE_MS)
    for batch in batches:
        arriving.take(*batch)
    assert arriving.claims == arriving.proven_at_once()
