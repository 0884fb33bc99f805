"""The newest closed facts of each symbol, as hot readers want them."""

from collections.abc import Mapping

from resources.timescale.store import MarketStore


def latest_values(market: MarketStore, until_ms: Mapping[str, int] | None = None) -> dict[str, dict[str, str]]:
    """Return `{symbol: {field: text}}` of each symbol's newest closed minute and the newest 3m indicators of that moment.

    Args:
        market: The database.
        until_ms: By symbol, the open time of the last minute that counts; of the others the newest does.
    """
    until_ms = until_ms or {}
    query = """
        SELECT s.name, (extract(epoch FROM c.open_time) * 1000)::bigint AS open_time_ms, c.timeframe,
               c.open, c.high, c.low, c.close, c.volume, i.ema_20, i.macd, i.rsi_7, i.rsi_14, i.atr_14
        FROM md.symbol s LEFT JOIN unnest($2::text[], $3::bigint[]) AS held (name, open_ms) USING (name)
        JOIN LATERAL (SELECT * FROM md.candle c WHERE c.symbol_id = s.symbol_id AND c.timeframe IN ('1m', '3m')
                      AND c.open_time <= coalesce(to_timestamp(held.open_ms / 1000.0), 'infinity')
                      ORDER BY open_time DESC, timeframe LIMIT 1) c ON true
        LEFT JOIN LATERAL (SELECT * FROM md.indicator i WHERE i.symbol_id = s.symbol_id AND i.timeframe = '3m'
                           AND i.open_time <= c.open_time - CASE c.timeframe WHEN '1m' THEN interval '2 min' ELSE '0' END
                           ORDER BY open_time DESC LIMIT 1) i ON true
        WHERE s.venue = $1 ORDER BY s.name
    """
    return {
        row["name"]: {
            name: repr(value) if isinstance(value, float) else str(value)
            for name, value in row.items()
            if value is not None
        }
        for row in market.fetch(query, market.venue, [*until_ms], [*until_ms.values()])
    }
