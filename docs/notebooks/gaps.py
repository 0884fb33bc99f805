# %% [markdown]
# # Gaps
#
# Ids of aggregate trades are consecutive, so a hole in them is a missing trade and the lack of one is a proof. A minute without
# a bar is either proven empty or unknown; the two must not be mixed up.

# %%
import os
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from resources.stores import open_stores
from resources.timescale.tables import CANDLE
from trading.market.candle import missing_bars, unproven
from trading.market.timeframe import DAY_MS, Timeframe
from trading_assets.cli import plot
from trading_assets.coverage import coverage

stack = ExitStack()
stores = stack.enter_context(open_stores(Path(os.environ.get("TRADING_HOME", ".trading"))))
market = stores.market
symbol = next(iter(market.instruments()))

# %% [markdown]
# What ids prove: stretches of time in which every trade is held.

# %%
proven = market.proven(symbol)
pl.DataFrame(proven, schema=["from_ms", "until_ms"], orient="row").select(
    pl.from_epoch(pl.all(), time_unit="ms"), hours=(pl.col("until_ms") - pl.col("from_ms")) / 3_600_000
)

# %% [markdown]
# Minutes of the last day without a bar, and which of them nobody can vouch for.

# %%
hi_ms = market.span(CANDLE, symbol, Timeframe.M1)[1] + Timeframe.M1.ms
minutes = market.read(CANDLE, symbol, hi_ms - DAY_MS, hi_ms, Timeframe.M1)
holes = missing_bars(minutes, Timeframe.M1, hi_ms - DAY_MS, hi_ms)
unknown = [part for lo, hi in holes for part in unproven(lo, hi, proven, Timeframe.M1)]
{
    "minutes without a bar": sum(hi - lo for lo, hi in holes) // Timeframe.M1.ms,
    "of which nothing is known": sum(hi - lo for lo, hi in unknown) // Timeframe.M1.ms,
}

# %% [markdown]
# A bar that lacks a trade, or a part, is there and says so. A question leaves it out unless it is asked for.

# %%
minutes.filter(~pl.col("complete")).select("open_time", "source", "trade_count", "n_present", "n_expected").head()

# %% [markdown]
# The same of all datasets, by day.

# %%
page, shown = plot.coverage(coverage(market, [symbol], hi_ms - 7 * DAY_MS, hi_ms, hi_ms), market.venue)
page

# %%
stack.close()
