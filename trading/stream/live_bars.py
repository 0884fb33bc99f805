"""The bars of one symbol as they close: of a second and a minute from its trades, longer ones and indicators from these.

A bar is given as soon as ids prove its time, and then it is what a rebuild makes of it. Where a trade that came later shows
that some are missing, it is given all the same a moment after its close, as `incomplete_trades`, and given again when the
missing ones are there. A market that is merely silent closes no bar: nothing says that its trades were not lost.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import polars as pl

from trading.indicators.recursion import indicators_of_days
from trading.market.candle import candles_from_trades, empty_candles, fuller, merge_sources, whole_buckets
from trading.market.instrument import Instrument
from trading.market.longer_bars import rolled_bars
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS, ROLLED_UP, Timeframe
from trading.market.trade import TRADE_SCHEMA, AggTrade, trades_frame

PATIENCE_MS: Final = 1_000
"""How long after its close a bar waits for trades that are missing; a hole is asked for after half a second."""

MOST_CHUNKS: Final = 64
KEPT_TRADES_MS: Final = 5 * MINUTE_MS
KEPT_BARS_MS: Final = 2 * DAY_MS

WITH_INDICATORS: Final = (Timeframe.M3, Timeframe.H4)

FROM_TRADES: Final = (Timeframe.S1, Timeframe.M1)

Proven = Sequence[tuple[int, int]]


class StoredBars(Protocol):
    """What is stored of one symbol; both return `CANDLE_SCHEMA`, ordered by open time."""

    def bars(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the bars that open in `[lo_ms, hi_ms)`."""
        ...

    def with_history(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the complete bars that open in `[lo_ms, hi_ms)` and those before that their indicators rest on."""
        ...


class Closed(NamedTuple):
    """Rows of one timeframe that closed, or that are to be as they are here from now on.

    Attributes:
        timeframe: Theirs.
        bars: `CANDLE_SCHEMA`, ordered by open time.
        indicators: Values at the close of complete bars, where the timeframe has them.
    """

    timeframe: Timeframe
    bars: pl.DataFrame
    indicators: pl.DataFrame | None = None


class LiveBars:
    """The bars of one symbol from a moment on.

    Args:
        instrument: Whose bars.
        start_ms: From this minute on all trades that are held will be taken.
        stored: Bars of earlier minutes, and those that others have written.
    """

    def __init__(self, instrument: Instrument, start_ms: int, stored: StoredBars) -> None:
        self.start_ms = Timeframe.M1.floor(start_ms)
        self._instrument, self._stored = instrument, stored
        self.trades = pl.DataFrame(schema=TRADE_SCHEMA)
        """All trades since `start_ms`, by id, and the last one before, where it is known."""
        self._edges = {t: t.floor(self.start_ms) for t in (Timeframe.S1, *CANDLE_TIMEFRAMES)}
        """Up to where bars have been given, by timeframe."""
        self._unsure: dict[Timeframe, set[int]] = {t: set() for t in self._edges}
        """Open times of bars that were given although something may still come, by timeframe."""
        self._bars, self._bars_since_ms = {t: empty_candles() for t in CANDLE_TIMEFRAMES}, self.start_ms
        self._history: dict[Timeframe, tuple[int, pl.DataFrame]] = {}
        self._seen_ms = 0
        self._stretches: list[int] = []

    def again_since(self, start_ms: int) -> "LiveBars":
        """Return the bars from a moment on, to be made anew; what these have given of the time before still holds."""
        anew = LiveBars(self._instrument, start_ms, self._stored)
        anew._bars_since_ms = min(anew.start_ms, self._bars_since_ms)
        for timeframe, bars in self._bars.items():
            anew._bars[timeframe] = bars.filter(pl.col("open_time") < timeframe.floor(anew.start_ms))
        for timeframe, unsure in self._unsure.items():
            anew._unsure[timeframe] = {opened for opened in unsure if opened < timeframe.floor(anew.start_ms)}
        return anew

    @property
    def given_until_ms(self) -> int:
        """Up to where all bars of a minute and shorter have been given at least once."""
        return self._edges[Timeframe.M1]

    def needed_since(self, trades: pl.DataFrame, proven: Proven, reach_ms: int = 0) -> int | None:
        """Return the time from which all trades are needed again, in new bars, where these are of minutes long past.

        What began before `reach_ms` stays as it was given, as its trades cannot be had again.
        """
        for timeframe in FROM_TRADES:
            self._unsure[timeframe] = {opened for opened in self._unsure[timeframe] if opened >= reach_ms}
        changing = [*trades["time_ms"].to_list(), *self._proven_now(proven)]
        return min((time_ms for time_ms in changing if reach_ms <= time_ms < self.start_ms), default=None)

    def take(self, trades: pl.DataFrame, proven: Proven, known_at_ms: int) -> list[Closed]:
        """Take trades, none of which is `needed_since` long past, and return the bars that closed or came to be others.

        Args:
            trades: `TRADE_SCHEMA`, in any order; none comes twice.
            proven: Half-open ranges of exchange time (ms) whose ids are contiguous, in order, and of which all trades have
                been taken.
            known_at_ms: The exchange's clock.
        """
        # Not at the end: whoever asks what all this proves finds where it joins what was proven before.
        changing = [*trades["time_ms"].to_list(), *self._proven_now(proven)]
        self._drop_trades(min(self._edges[Timeframe.M1], known_at_ms - KEPT_TRADES_MS, *changing))
        touched = self._hold(trades)
        stretches = [since for since, _ in proven]
        filled, self._stretches = stretches != self._stretches, stretches
        given: dict[Timeframe, pl.DataFrame] = {}
        for timeframe in FROM_TRADES:
            bars = self._from_trades(timeframe, touched, proven, known_at_ms)
            if bars is not None:
                given[timeframe] = bars
        minutes = given.get(Timeframe.M1, empty_candles())
        if len(minutes):
            self._keep(Timeframe.M1, minutes, known_at_ms)
        for timeframe in ROLLED_UP:
            bars = self._longer(timeframe, minutes["open_time"].to_list(), proven, filled, known_at_ms)
            if bars is not None:
                given[timeframe] = bars
        return [Closed(t, bars, self._indicators(t, bars)) for t, bars in given.items() if len(bars)]

    @property
    def prepared(self) -> bool:
        """Whether what indicators rest on was read once."""
        return bool(self._history)

    def prepare(self) -> None:
        """Read what the next indicators rest on, so that the next bar need not wait for it; others may have changed it."""
        for timeframe in WITH_INDICATORS:
            day_ms = Timeframe.D1.floor(self._edges[timeframe])
            self._history[timeframe] = (day_ms, self._stored.with_history(timeframe, day_ms, day_ms + DAY_MS))

    # -- from trades -------------------------------------------------------------------------------------------------

    def _hold(self, trades: pl.DataFrame) -> list[int]:
        """Keep trades in the order of their ids and return their times."""
        times = trades["time_ms"].to_list()
        if times and min(times) < self.start_ms:
            trades = trades.filter(pl.col("time_ms") >= self.start_ms)
            times = trades["time_ms"].to_list()
        if not times:
            return []
        held = self.trades
        in_order = held.is_empty() or trades["agg_trade_id"][0] > held["agg_trade_id"][-1]
        held = pl.concat([held, trades])
        if not in_order or not trades["agg_trade_id"].is_sorted():
            held = held.unique("agg_trade_id", keep="first", maintain_order=True).sort("agg_trade_id")
        # Each piece that was added is a chunk of its own, which every later look would visit.
        self.trades = held.rechunk() if held.n_chunks() > MOST_CHUNKS else held
        self._seen_ms = max(self._seen_ms, *times)
        return times

    def _from_trades(
        self, timeframe: Timeframe, touched: list[int], proven: Proven, known_at_ms: int
    ) -> pl.DataFrame | None:
        """Return the bars that are to be given, or None."""
        edge, unsure = self._edges[timeframe], self._unsure[timeframe]
        until = self._closed_until(timeframe, proven, known_at_ms)
        late = {opened for time_ms in touched if (opened := timeframe.floor(time_ms)) < edge}
        held = [opened for opened in unsure if opened >= self.start_ms]
        again = late.union(_covered(held, timeframe, proven))
        if until <= edge and not again:
            return None
        lo_ms, times = min(again, default=edge), self.trades["time_ms"]
        inside = self.trades.filter((times >= lo_ms) & (times < until))
        bars = candles_from_trades(inside, self._instrument, timeframe, proven)
        bars = bars.filter((pl.col("open_time") >= edge) | pl.col("open_time").is_in(sorted(again)))
        bars = bars.with_columns(known_at_ms=pl.lit(known_at_ms, pl.Int64))
        self._edges[timeframe] = until
        self._forget(timeframe, again, bars, known_at_ms)
        return bars

    def _proven_now(self, proven: Proven) -> list[int]:
        """Return the open times of bars that were given although something might still come, and nothing can any more."""
        return [opened for timeframe in FROM_TRADES for opened in _covered(self._unsure[timeframe], timeframe, proven)]

    def _closed_until(self, timeframe: Timeframe, proven: Proven, known_at_ms: int) -> int:
        """Return the end of the bars that can be given: proven ones, and those whose trades were waited for."""
        edge = self._edges[timeframe]
        sure_ms = max((until for since, until in proven if since <= edge), default=edge)
        patient_ms = min(self._seen_ms, known_at_ms - PATIENCE_MS)
        return max(edge, timeframe.floor(sure_ms), timeframe.floor(patient_ms))

    def _forget(self, timeframe: Timeframe, again: set[int], bars: pl.DataFrame, known_at_ms: int) -> None:
        """Note which of the bars given may change; what an exchange never has would otherwise be waited for for ever."""
        incomplete = bars.filter(~pl.col("complete"))["open_time"].to_list()
        unsure = (self._unsure[timeframe] - again) | set(incomplete)
        self._unsure[timeframe] = {opened for opened in unsure if opened > known_at_ms - KEPT_BARS_MS}

    def _drop_trades(self, before_ms: int) -> None:
        """Let go of the trades of whole minutes that ended long ago; see `needed_since`."""
        edge = Timeframe.M1.floor(before_ms)
        if edge > self.start_ms + MINUTE_MS:
            self.start_ms = edge
            self.trades = self.trades.slice(max(0, int((self.trades["time_ms"] < edge).sum()) - 1))

    # -- longer ------------------------------------------------------------------------------------------------------

    def _keep(self, timeframe: Timeframe, bars: pl.DataFrame, known_at_ms: int) -> None:
        self._bars_since_ms = max(self._bars_since_ms, known_at_ms - KEPT_BARS_MS)
        kept = merge_sources(bars, self._bars[timeframe])
        self._bars[timeframe] = kept.filter(pl.col("open_time") >= timeframe.floor(self._bars_since_ms))

    def _longer(
        self, timeframe: Timeframe, minutes: list[int], proven: Proven, filled: bool, known_at_ms: int
    ) -> pl.DataFrame | None:
        edge, until = self._edges[timeframe], timeframe.floor(self._edges[Timeframe.M1])
        again = {opened for minute in minutes if (opened := timeframe.floor(minute)) < edge}
        if filled:
            again |= self._unsure[timeframe]
        if until <= edge and not again:
            return None
        lo_ms, hi_ms = min(again, default=edge), max(until, edge)
        wanted, bars = [(lo_ms, hi_ms)], empty_candles()
        if lo_ms >= self._bars_since_ms:  # a minute before that has no row here, though it may have had trades
            bars, wanted = rolled_bars(self._own, self._instrument, timeframe, proven, lo_ms, hi_ms)
        if wanted:
            bars, _ = rolled_bars(self._all, self._instrument, timeframe, proven, lo_ms, hi_ms)
        bars = bars.filter((pl.col("open_time") >= edge) | pl.col("open_time").is_in(sorted(again)))
        self._edges[timeframe] = hi_ms
        self._forget(timeframe, again, bars, known_at_ms)
        self._keep(timeframe, bars, known_at_ms)
        return bars

    def _own(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return self._bars[timeframe].filter(pl.col("open_time").is_between(lo_ms, hi_ms, "left"))

    def _all(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return merge_sources(self._own(timeframe, lo_ms, hi_ms), self._stored.bars(timeframe, lo_ms, hi_ms))

    def _indicators(self, timeframe: Timeframe, bars: pl.DataFrame) -> pl.DataFrame | None:
        """Return the indicators of the bars given and of all that follow them, as all of these rest on them."""
        if timeframe not in WITH_INDICATORS:
            return None
        lo_ms, hi_ms = int(bars["open_time"][0]), self._edges[timeframe]
        day_ms = Timeframe.D1.floor(lo_ms)
        held = self._history.get(timeframe)
        if held is None or held[0] > day_ms or hi_ms > held[0] + DAY_MS:
            held = (day_ms, self._stored.with_history(timeframe, day_ms, hi_ms))
            self._history[timeframe] = held
        candles = fuller(self._bars[timeframe], held[1]).filter("complete")
        return indicators_of_days(candles, timeframe, lo_ms, hi_ms)


def warm_up(instrument: Instrument) -> None:
    """Have compiled and loaded what closing bars takes, a second or ten of them, so that the first bars need not wait."""
    trades = [
        AggTrade(number, 1, 1, number, number, number * MINUTE_MS, False) for number in range(DAY_MS // MINUTE_MS)
    ]
    bars = LiveBars(instrument, 0, _Nothing())
    bars.take(trades_frame(trades), [(0, DAY_MS)], DAY_MS)
    bars.prepare()


class _Nothing:
    """No bar is stored."""

    def bars(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return empty_candles()

    def with_history(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return empty_candles()


def proven_before(proven: Iterable[tuple[int, int]], until_ms: int) -> list[tuple[int, int]]:
    """Return what is proven before a moment."""
    return [(since, min(until, until_ms)) for since, until in proven if since < until_ms]


def _covered(opened: Iterable[int], timeframe: Timeframe, proven: Proven) -> list[int]:
    times = np.array(list(opened), np.int64)
    found: list[int] = times[whole_buckets(times, timeframe.ms, proven)].tolist()
    return found
