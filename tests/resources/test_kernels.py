"""What setting up compiles is all that a run needs."""

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import os
from pathlib import Path

import numpy as np
import polars as pl

from resources.journal import TradeJournal
from resources.kernels import compile_all
from resources.timescale.binary_copy import decode, encode
from resources.timescale.tables import PROFILE_MINUTE
from trading.indicators.recursion import indicators_of_days
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.market.trade import AggTrade
from trading.microstructure.profile_minutes import LISTS, merge_minutes, profile_minutes
from trading.microstructure.volume_profile import volume_profile, volume_profile_of_minutes
from trading.stream.contiguity import IdRange

FOLDER = Path(os.environ["FOLDER"])
def compiled():
    return {path.name for path in Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")}

compile_all()
before = compiled()
assert before
instrument = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
trades = [AggTrade(number, 100 + number % 7, 5, number, number, number * 100, number % 2 > 0) for number in range(2_000)]
with TradeJournal.write(FOLDER) as journal:
    for half in (trades[:1_100], trades[1_000:]):
        held = IdRange(half[0].agg_trade_id, half[-1].agg_trade_id, half[0].time_ms, half[-1].time_ms)
        journal.append({"BTCUSDT": half}, {"BTCUSDT": [held]})
    frame = journal.trades("BTCUSDT", 0, 10**9)
    assert len(frame) == len(trades)
    volume_profile(frame, instrument, 0, 3 * MINUTE_MS)
    volume_profile(pl.concat([frame[:999], frame[999:]]), instrument, 0, 10**9)
    minutes = merge_minutes([profile_minutes(frame)])
    volume_profile_of_minutes(minutes, instrument, 0, 4 * MINUTE_MS)
prices = np.linspace(1, 2, 3_000)
bars = {"open_time": 180_000 * np.arange(len(prices)), "high": prices, "low": prices, "close": prices}
for lists in ([[1], [2, 3]], [[1], [None, 3]], [None, []]):
    lists = {name: pl.Series(lists, dtype=pl.List(pl.Int64)) for name in LISTS}
    frame = pl.DataFrame({"minute": [0, MINUTE_MS], **lists})
    assert decode(PROFILE_MINUTE, bytearray(encode(PROFILE_MINUTE, frame, ()))).equals(frame)
indicators_of_days(pl.DataFrame(bars).filter(pl.col("close") > 1.1), Timeframe.M3, 0, 10**9)
assert compiled() == before, compiled() - before
"""


def test_a_run_compiles_nothing_more(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "FOLDER": str(tmp_path / "journal")}
    run = subprocess.run([sys.executable, "-c", RUN], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stderr
