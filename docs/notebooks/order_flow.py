# %% [markdown]
# # Order flow
#
# What takers bought and sold, minute by minute and at each price. The taker's side is the exchange's own word, so that the
# cumulative delta is exact.

# %%
import os
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from resources.stores import open_stores
from resources.timescale.tables import PROFILE_MINUTE, TRADE
from trading.market.timeframe import HOUR_MS, Timeframe
from trading.microstructure.order_flow import order_flow
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.volume_profile import volume_profile_of_minutes
from trading_assets.cli import plot

stack = ExitStack()
stores = stack.enter_context(open_stores(Path(os.environ.get("TRADING_HOME", ".trading"))))
market = stores.market
symbol = next(iter(market.instruments()))
instrument = market.instrument(symbol)

# %% [markdown]
# The newest hours of trades: prices in ticks, quantities in lots.

# %%
_, last_ms = market.span(TRADE, symbol)
hi_ms = Timeframe.M1.ceil(last_ms + 1)
lo_ms = hi_ms - 6 * HOUR_MS
trades = market.read(TRADE, symbol, lo_ms, hi_ms)
trades.head()

# %%
flow = order_flow(trades, instrument, lo_ms, hi_ms)
{name: getattr(flow, name) for name in ("trade_count", "buy_volume", "sell_volume", "cumulative_delta", "direction")}

# %% [markdown]
# Bought less sold by the hour, in the base currency.

# %%
signed = pl.when("buyer_is_maker").then(-pl.col("quantity")).otherwise(pl.col("quantity"))
trades.group_by(hour=pl.col("time_ms") // HOUR_MS * HOUR_MS, maintain_order=True).agg(
    delta=signed.sum() / 10**instrument.quantity_decimals, trades=pl.len()
).with_columns(pl.from_epoch("hour", time_unit="ms"))

# %% [markdown]
# Minutes of the profile are integer sums: any of them merge into one exact profile, the same as from the trades themselves.

# %%
minutes = profile_minutes(trades)
kept = market.read(PROFILE_MINUTE, symbol, lo_ms, hi_ms)
assert kept.is_empty() or kept.equals(minutes)
profile = volume_profile_of_minutes(minutes, instrument, lo_ms, hi_ms)
page, shown = plot.profile_page(profile, instrument, 1.0)
page

# %%
stack.close()
