"""What a collector keeps and checks of the streams beside its trades: mark prices, and klines against stored trades."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from resources.journal import TradeJournal
from trading.stream.contiguity import IdRange
from trading.stream.events import Kline, MarkPrice
from trading.stream.klines import KlineCheck, differences

_log = logging.getLogger(__name__)


class SideStreams:
    """The streams beside the trades of one collector.

    Args:
        journal: Open for writing; holds the trades whenever `store` is called.

    Attributes:
        statistics: `marks` stored; `klines_agree`, `klines_differ`, and `klines_unproven` that were given up.
    """

    def __init__(self, journal: TradeJournal) -> None:
        self._journal = journal
        self._klines = KlineCheck()
        self._named: set[tuple[str, ...]] = set()
        self.statistics: Counter[str] = Counter()

    def store(self, events: Iterable[tuple[str, Kline | MarkPrice]], ledgers: Mapping[str, Sequence[IdRange]]) -> None:
        """Store what is to be kept, and compare the klines whose time is proven; raises like `TradeJournal.append`."""
        marks: dict[str, list[MarkPrice]] = {}
        for symbol, event in events:
            if isinstance(event, MarkPrice):
                marks.setdefault(symbol, []).append(event)
            else:
                self._klines.take(symbol, event)
        if marks:
            self._journal.append_marks(marks)
            self.statistics["marks"] += sum(map(len, marks.values()))
        for symbol, kline in self._klines.proven(ledgers):
            self._compare(symbol, kline)
        if self._klines.forgotten:
            self.statistics["klines_unproven"] = self._klines.forgotten

    def _compare(self, symbol: str, kline: Kline) -> None:
        found = differences(kline, self._journal.trades(symbol, kline.open_time_ms, kline.close_time_ms + 1))
        self.statistics["klines_differ" if found else "klines_agree"] += 1
        name = (symbol, *found)
        # One that differs always differs alike, as when a venue counts otherwise; the status goes on counting.
        if found and name not in self._named:
            self._named.add(name)
            opened = datetime.fromtimestamp(kline.open_time_ms / 1000, UTC).isoformat()
            said = ", ".join(f"{what} {theirs} instead of {ours}" for what, (theirs, ours) in found.items())
            _log.warning("%s: the kline of %s is unlike its trades: %s", symbol, opened, said)
