# %% [markdown]
# # As of a moment
#
# There are two times. A bar is a fact from its close on; a version of it is known since it was recorded. A backtest that
# reads today's bars reads repairs that came later. This notebook asks with either.

# %%
import os
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from resources.stores import open_stores
from resources.timescale.tables import CANDLE
from trading.market.timeframe import MINUTE_MS, Timeframe

stack = ExitStack()
stores = stack.enter_context(open_stores(Path(os.environ.get("TRADING_HOME", ".trading"))))
market, provider = stores.market, stores.provider
symbol = next(iter(market.instruments()))

# %% [markdown]
# No bar that closes after a moment is in an answer of that moment.

# %%
_, last_ms = market.span(CANDLE, symbol, Timeframe.M1)
moment = datetime.fromtimestamp((last_ms - 90 * MINUTE_MS) // 1000, UTC)
bars = provider.get_multi_timeframe_data(symbol, ["1m", "1h"], moment, limit=3)
closes = {str(timeframe): rows["open_time"].max() + timeframe.ms for timeframe, rows in bars.items() if len(rows)}
assert all(close <= moment.timestamp() * 1000 for close in closes.values())
closes

# %% [markdown]
# Former versions of bars stay where they were replaced. Here is the last minute that was corrected, if any was.

# %%
corrected = market.fetch(
    """
    SELECT (extract(epoch FROM r.open_time) * 1000)::bigint AS open_time,
        (extract(epoch FROM r.superseded_at) * 1000)::bigint AS superseded_at
    FROM md.candle_revision r JOIN md.symbol s USING (symbol_id)
    WHERE s.venue = $1 AND s.name = $2 AND r.timeframe = '1m' ORDER BY r.superseded_at DESC LIMIT 1
    """,
    market.venue,
    symbol,
)
corrected or "no minute of this home was ever corrected"

# %% [markdown]
# What was known of it before the correction, and what is known since. `incomplete=True` asks for bars that lack trades too.

# %%
if corrected:
    open_ms, corrected_ms = corrected[0]
    asked = {"timeframes": ["1m"], "timestamp": open_ms + MINUTE_MS, "limit": 1, "incomplete": True}
    before = provider.get_multi_timeframe_data(symbol, known_by=corrected_ms - 1, **asked)[Timeframe.M1]
    after = provider.get_multi_timeframe_data(symbol, known_by=corrected_ms, **asked)[Timeframe.M1]
    assert not before.drop("known_at_ms").equals(after.drop("known_at_ms"))
    versions = pl.concat([before, after])
else:
    versions = None
versions

# %%
stack.close()
