"""Compile every kernel, so that no program waits for it: `python -m resources.kernels`, which setting up runs once.

Numba keeps what it compiled beside each source, or in the user's cache where that cannot be written; `NUMBA_CACHE_DIR` names
another place. Code is compiled for the kinds of arrays that callers pass, so each kernel runs here through its callers.
"""

from pathlib import Path

import numpy as np
import polars as pl

from resources.timescale.binary_copy import decode as decode_rows
from resources.timescale.binary_copy import encode as encode_rows
from resources.timescale.tables import BOOK_1S, PROFILE_MINUTE
from trading.indicators.recursion import indicators
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS
from trading.market.trade import AggTrade, trades_frame
from trading.microstructure.profile_bins import extent
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.volume_profile import MIN_TRADES, volume_profile, volume_profile_of_minutes
from trading.provider.book_tops import VOLUMES
from trading.stream.batch import decode, encode
from trading.stream.scanner import Scanner


def kept_in() -> Path:
    """Return the folder that holds the compiled code of one of them."""
    return Path(str(extent.stats.cache_path))  # pyright: ignore[reportFunctionMemberAccess]


def compile_all() -> None:
    """Run each kernel on as little as it takes."""
    instrument = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
    trades = trades_frame(
        [AggTrade(number, 1, 1, number, number, number, number % 2 > 0) for number in range(MIN_TRADES)]
    )
    edges, start = np.array([0, len(trades)]), np.array([0])
    decode(encode(trades, edges, start, [b""]), start, [b""])
    Scanner({instrument.name: instrument}).compile()
    volume_profile(trades, instrument, 0, MINUTE_MS)
    volume_profile_of_minutes(profile_minutes(trades), instrument, 0, MINUTE_MS)
    lists = {name: [[1], [1, None]] for name in PROFILE_MINUTE.schema if name != "minute"}
    minutes = pl.DataFrame({"minute": [0, MINUTE_MS], **lists}, PROFILE_MINUTE.schema)
    decode_rows(PROFILE_MINUTE, encode_rows(PROFILE_MINUTE, minutes, ()))
    second = {"time_ms": 0, **dict.fromkeys(VOLUMES, 1.0), "snapshots": 1}
    decode_rows(BOOK_1S, encode_rows(BOOK_1S, pl.DataFrame([second], BOOK_1S.schema), ()))
    indicators(pl.DataFrame({"open_time": [0], "high": [1.0], "low": [1.0], "close": [1.0]}))


if __name__ == "__main__":
    compile_all()
