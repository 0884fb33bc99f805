"""States, features and outcomes see nothing that lies after their moment."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trading.rag.grid as grid
from trading.indicators.recursion import indicators_of_days
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.rag.features import CLIP, FEATURES, features
from trading.rag.outcomes import outcomes
from trading.rag.snapshot import snapshots

DAYS = 30
START = 20_000 * DAY_MS
END = START + DAYS * DAY_MS


def bars(timeframe: Timeframe, seed: int = 1) -> pl.DataFrame:
    count = DAYS * DAY_MS // timeframe.ms
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.002, count)))
    return pl.DataFrame(
        {
            "open_time": START + np.arange(count) * timeframe.ms,
            "open": close,
            "high": close * 1.001,
            "low": close * 0.999,
            "close": close,
            "volume": random.random(count) + 0.5,
        }
    )


SHORT, LONG = bars(Timeframe.M3), bars(Timeframe.H4)
LO = END - 2 * DAY_MS


def states(short: pl.DataFrame, long: pl.DataFrame, lo: int = LO, hi: int = END) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return states and features from candles, through the indicators."""
    first = lo - lo % DAY_MS - 2 * DAY_MS
    fast = indicators_of_days(short, Timeframe.M3, first, END)
    slow = indicators_of_days(long, Timeframe.H4, START, END)
    frames = (short, fast, long, slow)
    taken, _ = snapshots("BTCUSDT", *frames, lo, hi)
    return taken, features(*frames, taken)


WHOLE = states(SHORT, LONG)


def noise_after(frame: pl.DataFrame, timeframe: Timeframe, cut: int) -> pl.DataFrame:
    """Return the bars with everything that closes after `cut` replaced."""
    later = pl.col("open_time") + timeframe.ms > cut
    names = ("open", "high", "low", "close", "volume")
    return frame.with_columns(pl.when(later).then(pl.col(name) * 1e3 + 7).otherwise(pl.col(name)) for name in names)


def unchanged(cut: int) -> bool:
    again = states(noise_after(SHORT, Timeframe.M3, cut), noise_after(LONG, Timeframe.H4, cut))
    before = [frame.filter(pl.col("ts_ms") <= cut) for frame in WHOLE]
    return all(old.equals(new.filter(pl.col("ts_ms") <= cut)) for old, new in zip(before, again, strict=True))


@given(st.integers(LO + HOUR_MS, END).filter(lambda cut: cut % Timeframe.H4.ms))
@settings(max_examples=15, deadline=None)
def test_noise_after_a_moment_changes_nothing_before_it_bit_for_bit(cut: int) -> None:
    assert unchanged(cut)


def test_a_join_with_the_bar_that_is_still_open_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def same_bucket(self: grid.Grid, times_ms: grid.Ints) -> grid.Ints:
        return (times_ms - self.lo_ms) // self.timeframe.ms

    monkeypatch.setattr(grid.Grid, "closing_at", same_bucket)
    leaking = states(SHORT, LONG)
    monkeypatch.setattr("tests.trading.test_rag.WHOLE", leaking)
    assert not unchanged(LO + 5 * HOUR_MS + 7 * MINUTE_MS)


def test_a_day_alone_has_the_same_states_and_features_as_in_a_range() -> None:
    day = END - DAY_MS
    alone = states(SHORT, LONG, day, END)
    for part, whole in zip(alone, WHOLE, strict=True):
        assert part.equals(whole.filter(pl.col("ts_ms") >= day))


def test_features_are_bounded_and_as_the_index_stores_them() -> None:
    values = WHOLE[1].select(FEATURES).to_numpy()
    assert len(values) > 100
    assert np.abs(values).max() <= np.float32(CLIP)
    assert (values.astype(np.float32).astype(np.float64) == values).all()


def test_a_missing_bar_leaves_a_null_in_its_place_and_excludes_the_features() -> None:
    gone = END - HOUR_MS
    taken, made = states(SHORT.filter(pl.col("open_time") != gone), LONG)
    state = taken.filter(pl.col("ts_ms") == END - 45 * MINUTE_MS).row(0, named=True)
    assert state["gap_bars"] == 1
    assert state["mid_prices"].count(None) == 1
    assert not made.filter(pl.col("ts_ms") > gone + Timeframe.M3.ms).height


def outcome(path: list[float], gone: int | None = None) -> dict:
    """Return the outcome of a state at START whose following closes are `path`, then flat."""
    closes = [100.0, *path, *[path[-1]] * (481 - len(path))]
    times = [START + (i - 1) * Timeframe.M3.ms for i in range(len(closes))]
    candles = pl.DataFrame({"open_time": times, "high": closes, "low": closes, "close": closes})
    if gone is not None:
        candles = candles.filter(pl.col("open_time") != START + gone * Timeframe.M3.ms)
    state = pl.DataFrame({"ts_ms": [START], "price": [100.0]})
    return outcomes(state, candles, START + DAY_MS).row(0, named=True)


def test_outcomes_are_percent_changes_at_each_horizon() -> None:
    row = outcome([101.0] * 5 + [102.0] * 15 + [98.5] * 60 + [104.0])
    assert [round(row[f"outcome_{h}"], 9) for h in ("15m", "1h", "4h", "24h")] == [1.0, 2.0, -1.5, 4.0]
    assert (row["hit_stop_loss"], row["hit_take_profit"], row["first_touch"]) == (False, True, "tp")
    assert round(row["max_drawdown_24h"], 9) == -1.5
    assert row["matures_at_ms"] == START + DAY_MS


def test_the_first_touch_decides() -> None:
    assert outcome([97.0, 104.0])["first_touch"] == "sl"
    assert outcome([100.0])["first_touch"] == "none"


def test_an_outcome_with_a_missing_bar_is_null_and_never_filled() -> None:
    row = outcome([101.0], gone=400)
    assert row["complete"] is False
    assert row["hit_stop_loss"] is None
    assert row["max_runup_24h"] is None
    assert row["outcome_4h"] is not None


def test_no_outcome_exists_before_its_day_has_passed() -> None:
    state = pl.DataFrame({"ts_ms": [START], "price": [100.0]})
    assert outcomes(state, SHORT, START + DAY_MS - 1).is_empty()
