# %% [markdown]
# # A first look
#
# What a home holds, a day of it, and what is known of a market at a moment. Run `trading demo` first, or set `TRADING_HOME`
# to a home of yours.

# %%
import os
from contextlib import ExitStack
from pathlib import Path

from resources.stores import open_stores
from resources.timescale.tables import CANDLE
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading_assets.cli import plot

stack = ExitStack()
stores = stack.enter_context(open_stores(Path(os.environ.get("TRADING_HOME", ".trading"))))
market, provider = stores.market, stores.provider
symbol = next(iter(market.instruments()))
market.instrument(symbol)

# %% [markdown]
# Everything is asked as of a moment. Without one it is now, or the end of a market that is over.

# %%
_, last_ms = market.span(CANDLE, symbol, Timeframe.M1)
closed_ms = last_ms + MINUTE_MS
bars = provider.get_multi_timeframe_data(symbol, ["1m", "15m", "1h"], limit=24)
bars[Timeframe.H1].tail(5)

# %% [markdown]
# A chart shows every bar at its time, holes as long as they were, and by the band below the prices where each bar came from.

# %%
page, shown = plot.candles(market, symbol, Timeframe.M15, closed_ms - DAY_MS // 2, closed_ms, 0)
page

# %% [markdown]
# One answer has all that a model is shown: bars, indicators, book, imbalances, what surrounds the moment, and how old and how
# complete each part is.

# %%
answer = provider.get_inference_data(symbol, closed_ms - HOUR_MS, timeframes=["1m", "1h"], limit=60)
{name: (len(frame), answer.sources.get(name)) for name, frame in answer.frames().items()}

# %%
{str(timeframe): (found.present, found.expected) for timeframe, found in answer.completeness.items()}

# %%
stack.close()
