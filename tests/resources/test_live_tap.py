"""What is handed on of a journal joins, whatever is read again."""

import asyncio
from pathlib import Path

from resources.journal import TradeJournal
from resources.live_tap import LiveTap
from trading.market.timeframe import MINUTE_MS, SECOND_MS
from trading.market.trade import AggTrade
from trading.stream.collector import Pending
from trading.stream.contiguity import IdRange

NAME = "BTCUSDT"
MINUTE = 1_760_000_040_000 // MINUTE_MS * MINUTE_MS


def trade(number: int, time_ms: int) -> AggTrade:
    return AggTrade(number, 100, 1, number, number, time_ms, False)


def test_what_is_read_again_goes_on_from_the_last_trade_that_was_handed_on(tmp_path: Path) -> None:
    times = [MINUTE + 54_425, MINUTE + 3 * MINUTE_MS]
    with TradeJournal.write(tmp_path / "journal") as journal:
        tap = LiveTap(journal, [NAME])
        tap.wake = lambda: None
        for number, time_ms in enumerate(times, 1):
            arrived, ledger = {NAME: [trade(number, time_ms)]}, {NAME: [IdRange(1, number, MINUTE, time_ms)]}
            journal.append(arrived, ledger)
            tap.stored(Pending(arrived, ledger, {}, {}), time_ms)
            if number == 1:
                assert len(tap.take()) == 1
        tap.read_again(NAME, times[1] + SECOND_MS)
        assert tap.take() == []
        piece = asyncio.run(tap.piece(NAME))
    assert piece is not None
    # The silence between the two trades is proven by whoever has both.
    assert piece.since_ms == MINUTE
