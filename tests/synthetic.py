"""Trades of the synthetic market, and the claim that they are all there is."""

from resources.simulator.synthetic import SyntheticMarket
from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange

MARKET = SyntheticMarket(5, ("BTCUSDT", "ETHUSDT"))


def synthetic_trades(symbol: str, lo_ms: int, hi_ms: int) -> list[AggTrade]:
    return [AggTrade(*row) for row in MARKET.trades(symbol, lo_ms, hi_ms).rows()]


def whole(trades: list[AggTrade], lo_ms: int, hi_ms: int) -> list[IdRange]:
    return [IdRange(trades[0].agg_trade_id, trades[-1].agg_trade_id, lo_ms, hi_ms)]
