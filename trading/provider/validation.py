"""A refusal is a row that cannot have happened, with the reason; what was refused is counted, kept aside and never stored.

What cannot have happened is said by `trading.provider.rules`. Nothing here stores anything.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Protocol

import polars as pl

from trading.errors import TradingError
from trading.market.timeframe import Timeframe
from trading.provider.pipeline import Series
from trading.provider.rules import BOOKS, CANDLES, SECONDS, TRADES, Kind, Reason, Row, as_kind, wrong_type
from trading.stream.wire import MAX_AHEAD_MS

LAST_ROWS: Final = 1_000
FEWEST_ROWS: Final = 100
ALARM_SHARE: Final = 0.01
KINDS: Final = {
    "candle": CANDLES,
    "candle_1s": CANDLES,
    "trade": TRADES,
    "book_snapshot": BOOKS,
    "book_1s": SECONDS,
}
"""By table."""


class RefusedRow(TradingError):
    """A row cannot have happened; `reason` is a word to count it by."""

    def __init__(self, kind: str, symbol: str, reason: Reason, row: Row) -> None:
        super().__init__(f"{kind} of {str(symbol)[:40]} refused, {reason}: {str(dict(row))[:200]}")
        self.reason = reason


class Quarantine(Protocol):
    """Where refused rows are kept."""

    def keep(self, kind: str, symbol: str, refused: Iterable[tuple[Reason, Row]]) -> None:
        """Keep rows as they came, each with the reason; each is made as it is asked for."""
        ...


class DataValidator:
    """The verdicts on rows of the symbols that are kept.

    Attributes:
        checked: Rows asked for, by kind.
        refused: Rows refused, by kind and reason.

    Args:
        symbols: Those that are known.
        clock: The exchange's clock, epoch ms; 0 while nothing is known of it, and no time is too late then.
        quarantine: Where refused rows go; None: only counted.
        ahead_ms: How far a row may be ahead of the clock.
        alarm_share: `alarmed` above this share of the last `LAST_ROWS` rows, once there are `FEWEST_ROWS`.
    """

    def __init__(
        self,
        symbols: Collection[str],
        clock: Callable[[], int],
        quarantine: Quarantine | None = None,
        ahead_ms: int = MAX_AHEAD_MS,
        alarm_share: float = ALARM_SHARE,
    ) -> None:
        self.checked: Counter[str] = Counter()
        self.refused: Counter[tuple[str, Reason]] = Counter()
        self._symbols = symbols
        self._clock = clock
        self._quarantine = quarantine
        self._ahead_ms = ahead_ms
        self._alarm_share = alarm_share
        self._last: deque[bool] = deque(maxlen=LAST_ROWS)
        self._last_refused = 0

    @property
    def refused_share(self) -> float:
        """Share of the last `LAST_ROWS` rows that was refused, 0 … 1."""
        return self._last_refused / len(self._last) if self._last else 0.0

    @property
    def alarmed(self) -> bool:
        """Whether so many rows are refused of late that the source, not the row, is wrong."""
        return len(self._last) >= FEWEST_ROWS and self.refused_share > self._alarm_share

    @property
    def told(self) -> dict[str, Any]:
        """Counts to show: rows checked, rows refused by kind and reason, and `refused_share`."""
        refused = {f"{kind} {reason}": count for (kind, reason), count in sorted(dict(self.refused).items())}
        return {"checked": self.checked.total(), "refused": refused, "refused_share": self.refused_share}

    def candle(self, symbol: str, timeframe: Timeframe | str, row: Row) -> None:
        """Check one bar, columns of `CANDLE_SCHEMA`; raises `RefusedRow`."""
        self._check(CANDLES, symbol, row, timeframe)

    def trade(self, symbol: str, row: Row) -> None:
        """Check one trade, columns of `TRADE_SCHEMA`; raises `RefusedRow`."""
        self._check(TRADES, symbol, row)

    def book(self, symbol: str, row: Row) -> None:
        """Check one book, columns of `BOOK_SNAPSHOT_SCHEMA`; raises `RefusedRow`."""
        self._check(BOOKS, symbol, row)

    def candles(self, symbol: str, timeframe: Timeframe | str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the bars that are accepted, `CANDLE_SCHEMA`; a column that may be null may be absent."""
        return self._accepted(CANDLES, symbol, rows, timeframe)

    def trades(self, symbol: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the trades that are accepted, `TRADE_SCHEMA`."""
        return self._accepted(TRADES, symbol, rows)

    def books(self, symbol: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the books that are accepted, `BOOK_SNAPSHOT_SCHEMA`."""
        return self._accepted(BOOKS, symbol, rows)

    def rows(self, series: Series, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a series that are accepted; of tables without rules all are."""
        kind = KINDS.get(series.table)
        if kind is None:
            return rows
        return self._accepted(kind, series.symbol, rows, series.timeframe if kind is CANDLES else None)

    def _check(self, kind: Kind, symbol: str, row: Row, timeframe: str | None = None) -> None:
        reason = self._unknown(symbol, timeframe) or wrong_type(kind, row)
        if reason is None:
            known = {name: row.get(name) for name in kind.schema} | self._limits(timeframe)
            reason = next((rule.reason for rule in kind.rules if rule.breaks(known)), None)
        self._count(kind, 1, [reason] if reason else [], [reason is not None])
        if reason is None:
            return
        if self._quarantine:
            self._quarantine.keep(kind.name, symbol, [(reason, row)])
        raise RefusedRow(kind.name, symbol, reason, row)

    def _accepted(self, kind: Kind, symbol: str, rows: pl.DataFrame, timeframe: str | None = None) -> pl.DataFrame:
        typed, reason = as_kind(kind, rows)
        reason = self._unknown(symbol, timeframe) or reason
        if reason is not None:
            reasons = pl.Series([str(reason)], dtype=pl.String).new_from_index(0, len(rows))
        else:
            first = pl.coalesce(pl.when(rule.broken).then(pl.lit(str(rule.reason))) for rule in kind.rules)
            limits = (pl.lit(value, pl.Int64).alias(name) for name, value in self._limits(timeframe).items())
            reasons = typed.with_columns(limits).select(first.alias("reason"))["reason"]
        refused = reasons.is_not_null()
        found = [Reason(name) for name in reasons.filter(refused)]
        self._count(kind, len(rows), found, refused[-LAST_ROWS:].to_list())
        if not found:
            return typed
        if self._quarantine:
            kept = zip(found, rows.filter(refused).iter_rows(named=True), strict=True)
            self._quarantine.keep(kind.name, symbol, kept)
        return typed.filter(~refused)

    def _unknown(self, symbol: str, timeframe: str | None) -> Reason | None:
        if symbol not in self._symbols:
            return Reason.UNKNOWN_SYMBOL
        return Reason.UNKNOWN_TIMEFRAME if timeframe is not None and timeframe not in tuple(Timeframe) else None

    def _limits(self, timeframe: str | None) -> dict[str, int | None]:
        now = self._clock()
        return {
            "latest_ms": now + self._ahead_ms if now else None,
            "length_ms": Timeframe(timeframe).ms if timeframe is not None else None,
        }

    def _count(self, kind: Kind, rows: int, found: Sequence[Reason], last: Sequence[bool]) -> None:
        """Count verdicts; `last` says of the newest rows, in order, whether each is refused."""
        self.checked[kind.name] += rows
        self.refused.update((kind.name, reason) for reason in found)
        for refused in last:
            if len(self._last) == LAST_ROWS:
                self._last_refused -= self._last[0]
            self._last.append(refused)
            self._last_refused += refused
