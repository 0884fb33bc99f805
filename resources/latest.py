"""The newest closed facts of each symbol, as hot readers want them."""

from resources.timescale.store import MarketStore


def latest_values(market: MarketStore) -> dict[str, dict[str, str]]:
    """Return `{symbol: {field: text}}` of the newest closed minute and the newest 3m indicators of each symbol."""
    query = """
        SELECT s.name, (extract(epoch FROM c.open_time) * 1000)::bigint AS open_time_ms, c.timeframe,
               c.open, c.high, c.low, c.close, c.volume, i.ema_20, i.macd, i.rsi_7, i.rsi_14, i.atr_14
        FROM md.symbol s
        JOIN LATERAL (SELECT * FROM md.candle c WHERE c.symbol_id = s.symbol_id AND c.timeframe IN ('1m', '3m')
                      ORDER BY open_time DESC, timeframe LIMIT 1) c ON true
        LEFT JOIN LATERAL (SELECT * FROM md.indicator i WHERE i.symbol_id = s.symbol_id AND i.timeframe = '3m'
                           AND i.open_time <= c.open_time ORDER BY open_time DESC LIMIT 1) i ON true
        WHERE s.venue = $1 ORDER BY s.name
    """
    return {
        row["name"]: {
            name: repr(value) if isinstance(value, float) else str(value)
            for name, value in row.items()
            if value is not None
        }
        for row in market.fetch(query, market.venue)
    }
