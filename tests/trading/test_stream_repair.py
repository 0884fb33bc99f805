"""When the trades of a symbol are all there up to a moment."""

from trading.market.trade import AggTrade
from trading.stream.repair import SETTLE_S, SymbolStream


def test_a_market_without_a_trade_lacks_none_at_the_moment_at_which_the_exchange_was_asked() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000, 5_000)
    fetch = stream.next_fetch(0.0)
    assert fetch is not None
    assert not stream.complete
    stream.fetched(fetch, 4_999, [], 0.0)
    assert not stream.complete
    again = stream.next_fetch(SETTLE_S)
    assert again is not None
    stream.fetched(again, 5_000, [], SETTLE_S)
    assert stream.complete
    assert stream.ledger.ranges == [], "nothing is proven by it"


def test_nothing_is_proven_beyond_what_was_wanted() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000, 5_000)
    now_s = 0.0
    for page in ([AggTrade(7, 1, 1, 7, 7, 4_000, False)], [], []):
        fetch = stream.next_fetch(now_s)
        assert fetch is not None
        assert not stream.complete
        stream.fetched(fetch, 9_000, page, now_s)
        now_s += SETTLE_S
    assert stream.complete
    assert (stream.ledger.ranges[0].proven_from_ms, stream.ledger.ranges[0].proven_until_ms) == (1_000, 5_000)
