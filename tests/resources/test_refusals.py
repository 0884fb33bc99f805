"""What was not taken is counted where it lies, and said no longer once it is gone."""

import json
from pathlib import Path

import polars as pl

from resources.home import Home
from resources.journal import TradeJournal
from resources.refusals import MOST_FRAMES, refused, too_many
from resources.timescale.dead_letters import DeadLetters
from trading.market.timeframe import DAY_MS, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.provider.pipeline import Batch, Series
from trading.provider.validation import DataValidator


def test_letters_and_frames_that_wait_are_counted_and_letters_are_an_alarm_until_they_are_gone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    assert set(refused(home).values()) == {0.0}
    letters = DeadLetters(home.dead_letters_dir)
    letters.write(Batch(Series("candle", "BTCUSDT", Timeframe.M1), pl.DataFrame({"open_time": [1]}), 1), "it was full")
    with TradeJournal.write(home.rocksdb_dir) as journal:
        for time_ms in (1, DAY_MS, DAY_MS + 2):
            journal.quarantine(time_ms, "BadFrame: no JSON", b"{%d" % time_ms)
        journal.checkpoint()
    samples = refused(home)
    assert (samples["candle.dead_letters"], samples["trade.dead_letters"]) == (1, 0)
    assert (samples["spot.frames"], samples["spot.frames_of_a_day"]) == (3, 2)
    assert too_many(samples) == ["candle: 1 dead letters wait, see 'trading replay --dry-run'"]
    for letter in letters.letters():
        letters.discard(letter)
    assert too_many(samples | refused(home)) == []


def test_so_many_frames_of_a_day_are_an_alarm() -> None:
    assert too_many({"usdm.frames_of_a_day": MOST_FRAMES}) == []
    (said,) = too_many({"usdm.frames_of_a_day": MOST_FRAMES + 1, "usdm.frames": 5e6})
    assert said.startswith("usdm: 1001 frames")


def test_a_share_of_rows_that_cannot_have_happened_is_an_alarm_while_the_collector_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    beat = home.run_dir / "heartbeat" / "spot.json"
    beat.parent.mkdir()
    checks = DataValidator({"BTCUSDT"}, lambda: 0)
    rows = trades_frame([AggTrade(n, n % 40, 1, n, n, 1_760_000_000_000, False) for n in range(1_000)])
    checks.trades("BTCUSDT", rows)
    beat.write_text(json.dumps({"live": {"checks": checks.told}}))
    samples = refused(home)
    assert (samples["live.checked"], samples["live.refused"]) == (1_000, 25)
    (said,) = too_many(samples)
    assert said.startswith("live: 2.5% of the last rows")
    beat.write_text("{}")
    assert too_many(samples | refused(home)) == []
