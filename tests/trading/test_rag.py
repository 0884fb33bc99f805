"""Market states, their features and outcomes: against plain loops, and blind to all that comes later."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.indicators.recursion import indicators_of_days
from trading.market.derivatives import DERIVATIVE_SCHEMA, Funding, OpenInterest, funding_rows, open_interest_rows
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.rag.contract import FEWEST, HISTORY_MS, PUBLISHED_MS, STALE_FUNDING_MS, contract_at
from trading.rag.features import CLIP, FEATURES, SCALES, features
from trading.rag.grid import Grid, Ints, slope
from trading.rag.outcomes import outcomes
from trading.rag.snapshot import INTERVAL_MS, SERIES, snapshots
from trading.rag.statistics import neighbour_statistics

M3, M5, H4 = Timeframe.M3.ms, Timeframe.M5.ms, Timeframe.H4.ms
START = 19_000 * DAY_MS
DAYS = 30
LO, HI = START + 27 * DAY_MS, START + DAYS * DAY_MS


@cache
def market(seed: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    bars = DAYS * DAY_MS // M3
    close = 60_000 * np.exp(np.cumsum(random.normal(0, 0.0015, bars)))
    spread = 1 + random.random(bars) * 0.001
    return pl.DataFrame(
        {
            "open_time": START + np.arange(bars) * M3,
            "open": np.concatenate([[60_000.0], close[:-1]]),
            "high": close * spread,
            "low": close / spread,
            "close": close,
            "volume": 1.0 + random.random(bars) * 9,
        }
    )


@cache
def contract(seed: int = 2) -> pl.DataFrame:
    """Return the open interest of every five minutes and the fundings of every eight hours, known at once."""
    random = np.random.default_rng(seed)
    interest = [OpenInterest(time, 80_000 + 500 * random.random()) for time in range(START, HI, M5)]
    settled = [time + (3, -2 * MINUTE_MS)[n % 2] for n, time in enumerate(range(START, HI, 8 * HOUR_MS))]
    fundings = [Funding(time, random.normal(0, 1e-4)) for time in settled]
    return pl.concat([open_interest_rows(interest, 0), funding_rows(fundings, 0)])


def rolled_up(candles: pl.DataFrame) -> pl.DataFrame:
    """Return 4h bars, a part of one included: what a careless caller would pass."""
    return (
        candles.group_by(pl.col("open_time") // H4 * H4, maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
        .sort("open_time")
    )


@dataclass(frozen=True)
class Memory:
    short: pl.DataFrame
    long: pl.DataFrame
    states: pl.DataFrame
    rejected: list[tuple[int, str]]
    vectors: pl.DataFrame
    short_indicators: pl.DataFrame
    long_indicators: pl.DataFrame


def remembered(
    candles: pl.DataFrame, lo_ms: int = LO, hi_ms: int = HI, derivatives: pl.DataFrame | None = None
) -> Memory:
    long = rolled_up(candles)
    short_indicators = indicators_of_days(candles, Timeframe.M3, lo_ms - 2 * DAY_MS, hi_ms)
    long_indicators = indicators_of_days(long, Timeframe.H4, START, hi_ms)
    frames = (candles, short_indicators, long, long_indicators)
    derivatives = contract() if derivatives is None else derivatives
    states, rejected = snapshots("BTCUSDT", *frames, derivatives, lo_ms, hi_ms)
    return Memory(candles, long, states, rejected, features(*frames, states), short_indicators, long_indicators)


@cache
def truth() -> Memory:
    return remembered(market())


def by_time(frame: pl.DataFrame) -> dict[int, dict[str, float]]:
    return {row["open_time"]: row for row in frame.iter_rows(named=True)}


def until(frame: pl.DataFrame, cut_ms: int) -> pl.DataFrame:
    return frame.filter(pl.col("ts_ms") <= cut_ms)


def assert_nothing_later_matters(cut_ms: int, seed: int) -> None:
    """Compare what is known at the cut with what a prefix, and a future of noise, make of the same moments."""
    known = market().filter(pl.col("open_time") + M3 <= cut_ms)
    later = market().filter(pl.col("open_time") + M3 > cut_ms)
    noise = np.random.default_rng(seed).random(len(later)) * 1e9
    poisoned = later.with_columns(*(pl.Series(name, noise) for name in ("open", "high", "low", "close", "volume")))
    said = contract().filter(pl.col("time_ms") <= cut_ms - PUBLISHED_MS)
    unsaid = (
        contract().filter(pl.col("time_ms") > cut_ms - PUBLISHED_MS).with_columns(open_interest=1e9, funding_rate=1.0)
    )
    corrected = said.with_columns(known_at_ms=pl.col("known_at_ms") + 1, open_interest=1e9, funding_rate=1.0)
    for candles, derivatives in ((known, said), (pl.concat([known, poisoned]), pl.concat([said, unsaid, corrected]))):
        memory = remembered(candles, derivatives=derivatives)
        assert until(memory.states, cut_ms).equals(until(truth().states, cut_ms))
        assert until(memory.vectors, cut_ms).equals(until(truth().vectors, cut_ms))


minutes = st.integers(LO // MINUTE_MS, HI // MINUTE_MS - 1)


@given(minutes, st.integers(0, 1000))
@settings(max_examples=20)
def test_no_candle_that_closes_later_changes_a_state_or_its_features(minute: int, seed: int) -> None:
    assert_nothing_later_matters(minute * MINUTE_MS, seed)


def test_the_test_for_looking_ahead_sees_a_4h_bar_that_is_read_at_its_open(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Grid.closing_at

    def same_bucket(grid: Grid, times_ms: Ints) -> Ints:
        return right(grid, times_ms) + (grid.timeframe is Timeframe.H4)

    cut_ms = LO + DAY_MS + 7 * HOUR_MS + 11 * MINUTE_MS
    assert_nothing_later_matters(cut_ms, 1)
    monkeypatch.setattr(Grid, "closing_at", same_bucket)
    truth.cache_clear()
    with pytest.raises(AssertionError):
        assert_nothing_later_matters(cut_ms, 1)
    truth.cache_clear()


def test_a_state_is_taken_on_every_quarter_of_an_hour() -> None:
    assert truth().states["ts_ms"].to_list() == list(range(LO, HI, INTERVAL_MS))
    assert truth().states["warm"].all()
    assert truth().states["complete"].all()
    assert truth().rejected == []


@pytest.mark.parametrize("place", [0, 7, 16, 101, 287])
def test_a_state_equals_one_read_bar_by_bar(place: int) -> None:
    memory = truth()
    state = memory.states.row(place, named=True)
    time_ms = state["ts_ms"]
    short, long = by_time(memory.short), by_time(memory.long)
    now, of_4h = time_ms - M3, time_ms // H4 * H4 - H4
    assert of_4h + H4 <= time_ms < of_4h + 2 * H4
    fast, slow = by_time(memory.short_indicators), by_time(memory.long_indicators)
    assert state["price"] == short[now]["close"]
    for name in ("rsi_7", "rsi_14", "macd", "ema_20"):
        assert state[name] == fast[now][name]
        assert state[f"{name}_values"] == [fast[now - M3 * ago][name] for ago in range(SERIES - 1, -1, -1)]
    assert state["mid_prices"] == [short[now - M3 * ago]["close"] for ago in range(SERIES - 1, -1, -1)]
    for name in ("ema_20", "ema_50", "atr_3", "atr_14"):
        assert state[f"{name}_4h"] == slow[of_4h][name]
    for name in ("macd", "rsi_14"):
        assert state[f"{name}_4h_values"] == [slow[of_4h - H4 * ago][name] for ago in range(SERIES - 1, -1, -1)]
    volumes = [long[of_4h - H4 * ago]["volume"] for ago in range(20)]
    assert state["current_volume_4h"] == volumes[0]
    assert state["avg_volume_4h"] == pytest.approx(sum(volumes) / 20, rel=1e-12)
    assert state["price_change_1h"] == pytest.approx(100 * (state["price"] / short[now - HOUR_MS]["close"] - 1))
    assert state["price_change_4h"] == pytest.approx(100 * (state["price"] / short[now - 4 * HOUR_MS]["close"] - 1))
    assert state["ema_ratio_20_50"] == state["ema_20_4h"] / state["ema_50_4h"]
    assert state["rsi_7_slope"] == pytest.approx(np.polyfit(range(10), state["rsi_7_values"], 1)[0], abs=1e-9)
    said = [state[name] for name in ("open_interest_latest", "open_interest_avg_24h", "funding_rate")]
    assert said == pytest.approx(said_of(time_ms, contract()), rel=1e-12)


def test_a_missing_bar_is_null_in_its_place_and_shifts_nothing() -> None:
    gone = LO + HOUR_MS - 5 * M3
    memory = remembered(market().filter(pl.col("open_time") != gone))
    state = memory.states.filter(pl.col("ts_ms") == LO + HOUR_MS).row(0, named=True)
    assert [value is None for value in state["mid_prices"]] == [place == 5 for place in range(10)]
    assert state["gap_bars"] == 1
    assert state["complete"]
    assert state["ts_ms"] not in memory.vectors["ts_ms"].to_list()


def test_a_gap_leaves_the_feature_window_after_a_day() -> None:
    gone = LO + HOUR_MS - M3
    memory = remembered(market().filter(pl.col("open_time") != gone))
    gaps = dict(memory.states.select("ts_ms", "gap_bars").iter_rows())
    assert gaps[LO + HOUR_MS - INTERVAL_MS] == 0
    assert gaps[LO + HOUR_MS] == gaps[LO + HOUR_MS + DAY_MS - INTERVAL_MS] == 1
    assert gaps[LO + HOUR_MS + DAY_MS] == 0


def test_a_bar_without_a_trade_counts_as_a_gap() -> None:
    still = pl.when(pl.col("open_time") == LO - 10 * M3).then(0.0).otherwise(pl.col("volume")).alias("volume")
    memory = remembered(market().with_columns(still))
    assert memory.states["gap_bars"][0] == 1
    assert memory.states["complete"][0]


def test_a_state_may_rest_on_a_bar_two_bars_old_and_no_older() -> None:
    for missing, kept in ((2, True), (3, False)):
        outage = pl.col("open_time").is_between(LO - missing * M3, LO, "left")
        memory = remembered(market().filter(~outage))
        assert (LO in memory.states["ts_ms"].to_list()) is kept
        assert memory.rejected == ([] if kept else [(LO, "stale")])


def test_a_short_history_is_not_warm_and_has_no_features() -> None:
    memory = remembered(market(), START + 10 * DAY_MS, START + 11 * DAY_MS)
    assert not memory.states["warm"].any()
    assert memory.vectors.is_empty()
    assert memory.vectors.columns == ["ts_ms", *FEATURES]


def test_no_bars_make_no_states() -> None:
    memory = remembered(market().clear())
    assert memory.states.is_empty()
    assert {reason for _, reason in memory.rejected} == {"stale"}
    assert len(memory.rejected) == (HI - LO) // INTERVAL_MS


def test_a_digest_names_its_symbol_moment_and_values() -> None:
    memory = truth()
    frames = (memory.short, memory.short_indicators, memory.long, memory.long_indicators)
    other, _ = snapshots("ETHUSDT", *frames, contract(), LO, HI)
    digests = {*memory.states["digest"], *other["digest"]}
    assert len(digests) == 2 * len(memory.states)
    assert all(len(digest) == 64 for digest in digests)
    moved = market().with_columns(
        volume=pl.when(pl.col("open_time") == LO - H4).then(pl.col("volume") + 1e-9).otherwise("volume")
    )
    assert remembered(moved).states["digest"][0] != memory.states["digest"][0]


def test_one_day_alone_has_the_bits_of_a_longer_range() -> None:
    alone = remembered(market(), LO + DAY_MS, LO + 2 * DAY_MS)
    inside = pl.col("ts_ms").is_between(LO + DAY_MS, LO + 2 * DAY_MS, "left")
    assert alone.states.equals(truth().states.filter(inside))
    assert alone.vectors.equals(truth().vectors.filter(inside))


def test_the_slope_of_one_to_five_is_one() -> None:
    assert slope(np.array([[1.0, 2, 3, 4, 5]])).tolist() == [1.0]


def test_features_are_twenty_clipped_numbers_that_float32_holds() -> None:
    assert len(FEATURES) == 20
    values = truth().vectors.select(FEATURES).to_numpy()
    assert len(values) == (HI - LO) // INTERVAL_MS
    assert np.abs(values).max() <= np.float32(CLIP)
    assert (values.astype(np.float32).astype(np.float64) == values).all()
    assert (values.std(axis=0) > 0.05).all()


@pytest.mark.parametrize("place", [0, 50, 287])
def test_features_equal_a_plain_reading_of_their_definition(place: int) -> None:
    memory = truth()
    row = memory.vectors.row(place, named=True)
    state = memory.states.filter(pl.col("ts_ms") == row["ts_ms"]).row(0, named=True)
    now, of_4h = row["ts_ms"] - M3, row["ts_ms"] // H4 * H4 - H4
    bars = [bar for bar in market().iter_rows(named=True) if now - DAY_MS <= bar["open_time"] <= now]
    closes, volumes, price = [bar["close"] for bar in bars], [bar["volume"] for bar in bars[1:]], state["price"]
    returns = [after / before - 1 for before, after in pairwise(closes)]
    slow, fast = by_time(memory.long_indicators)[of_4h], by_time(memory.short_indicators)[now]
    plain = {
        "rsi_7": state["rsi_7"],
        "rsi_14": state["rsi_14"],
        "macd": state["macd"] / price,
        "ema_20_gap": price / state["ema_20"] - 1,
        "rsi_7_slope": state["rsi_7_slope"],
        "macd_slope": state["macd_slope"] / price,
        "change_1h": state["price_change_1h"] / 100,
        "change_4h": state["price_change_4h"] / 100,
        "change_24h": price / closes[0] - 1,
        "volatility_4h": math.sqrt(sum(r * r for r in returns[-80:]) / 80),
        "volatility_24h": math.sqrt(sum(r * r for r in returns) / 480),
        "atr_14": fast["atr_14"] / price,
        "volume_ratio_1h_24h": sum(volumes[-20:]) * 24 / sum(volumes),
        "ema_20_50_4h": slow["ema_20"] / slow["ema_50"] - 1,
        "macd_4h": slow["macd"] / price,
        "rsi_14_4h": slow["rsi_14"],
        "macd_slope_4h": np.polyfit(range(10), state["macd_4h_values"], 1)[0] / price,
        "atr_3_14_4h": slow["atr_3"] / slow["atr_14"],
        "atr_14_4h": slow["atr_14"] / price,
        "volume_ratio_4h": state["current_volume_4h"] / state["avg_volume_4h"],
    }
    for name, value in plain.items():
        centre, scale = SCALES[name]
        assert row[name] == pytest.approx(max(-CLIP, min(CLIP, (value - centre) / scale)), abs=1e-6), name


def path(*moves_pct: tuple[int, float, float], bars: int = 480, price: float = 50_000.0) -> pl.DataFrame:
    """Return bars at one price, but for high and low moved by percent in some of them."""
    high, low = np.full(bars, price), np.full(bars, price)
    for bar, up, down in moves_pct:
        high[bar], low[bar] = price * (1 + up / 100), price * (1 + down / 100)
    return pl.DataFrame(
        {"open_time": START + np.arange(bars) * M3, "high": high, "low": low, "close": np.full(bars, price)}
    )


ONE_STATE = pl.DataFrame({"ts_ms": [START], "price": [50_000.0]})


def of(candles: pl.DataFrame, known_until_ms: int = START + DAY_MS) -> dict[str, float | str | bool | None]:
    return outcomes(ONE_STATE, candles, known_until_ms).row(0, named=True)


def test_outcomes_are_the_changes_to_the_closes_at_their_horizons() -> None:
    closes = {15: 50_500.0, 60: 51_000.0, 240: 49_000.0, 1440: 52_000.0}
    at = {START + minute * MINUTE_MS - M3: close for minute, close in closes.items()}
    candles = path().with_columns(
        close=pl.col("open_time").replace_strict(at, default=50_000.0, return_dtype=pl.Float64)
    )
    outcome = of(candles)
    assert [outcome[f"outcome_{name}"] for name in ("15m", "1h", "4h", "24h")] == pytest.approx([1, 2, -2, 4])
    assert outcome["matures_at_ms"] == START + DAY_MS


@pytest.mark.parametrize(
    ("moves", "touch", "stopped", "taken"),
    [
        ([], "none", False, False),
        ([(10, 0.0, -2.1)], "sl", True, False),
        ([(479, 3.1, 0.0)], "tp", False, True),
        ([(10, 0.0, -2.1), (11, 3.1, 0.0)], "sl", True, True),
        ([(10, 3.1, 0.0), (11, 0.0, -2.1)], "tp", True, True),
        ([(10, 3.1, -2.1)], "ambiguous", True, True),
        ([(10, 2.9, -1.9)], "none", False, False),
    ],
)
def test_the_first_limit_that_the_price_touched_is_named(
    moves: list[tuple[int, float, float]], touch: str, stopped: bool, taken: bool
) -> None:
    outcome = of(path(*moves))
    assert (outcome["first_touch"], outcome["hit_stop_loss"], outcome["hit_take_profit"]) == (touch, stopped, taken)


def test_extremes_belong_to_their_horizon_and_start_at_zero() -> None:
    outcome = of(path((19, 1.0, 0.0), (20, 2.0, -0.5), (79, 0.0, -1.0), (80, 2.5, 0.0)))
    assert outcome["max_runup_1h"] == pytest.approx(1.0)
    assert outcome["max_drawdown_1h"] == 0.0
    assert [outcome["max_runup_4h"], outcome["max_drawdown_4h"]] == pytest.approx([2.0, -1.0])
    assert outcome["max_runup_24h"] == pytest.approx(2.5)


def test_an_outcome_does_not_exist_before_its_day_has_passed() -> None:
    assert outcomes(ONE_STATE, path(), START + DAY_MS - 1).is_empty()
    assert len(outcomes(ONE_STATE, path(), START + DAY_MS)) == 1


def test_a_missing_bar_leaves_what_rests_on_it_unknown() -> None:
    outcome = of(path().filter(pl.col("open_time") != START + 4 * HOUR_MS - M3))
    assert outcome["complete"] is False
    assert outcome["outcome_4h"] is outcome["max_runup_4h"] is outcome["max_drawdown_24h"] is None
    assert outcome["hit_stop_loss"] is outcome["first_touch"] is None
    assert outcome["outcome_1h"] == outcome["outcome_24h"] == outcome["max_runup_1h"] == 0.0


@given(st.integers(0, DAYS * 480 - 1))
@settings(max_examples=25)
def test_an_outcome_changes_only_with_a_candle_of_the_day_after_its_state(bar: int) -> None:
    candles = market()
    states = pl.DataFrame({"ts_ms": np.arange(START + DAY_MS, HI - DAY_MS, 7 * HOUR_MS)}).with_columns(price=60_000.0)
    touched = int(candles["open_time"][bar])
    moved = candles.with_columns(
        pl.when(pl.col("open_time") == touched).then(pl.col(name) * 3).otherwise(pl.col(name)).alias(name)
        for name in ("high", "low", "close")
    )
    before, after = outcomes(states, candles, HI), outcomes(states, moved, HI)
    concerned = (pl.col("ts_ms") <= touched) & (pl.col("ts_ms") + DAY_MS > touched)
    assert after.filter(~concerned).equals(before.filter(~concerned))


def test_statistics_count_days_and_leave_unknown_outcomes_out() -> None:
    neighbours = [
        {"time": f"2026-01-{day:02d}T00:00:00Z", "outcome_1h": value, "outcome_4h": value, "outcome_24h": None}
        for day, value in ((1, -1.0), (1, 0.0), (2, 1.0), (3, 2.0), (4, None))
    ]
    statistics = neighbour_statistics(neighbours)
    assert (statistics["n"], statistics["distinct_days"]) == (5, 4)
    assert statistics["1h"]["p50_pct"] == 0.5
    assert statistics["1h"]["share_up"] == 0.5
    assert "24h" not in statistics


def said_of(at_ms: int, derivatives: pl.DataFrame) -> tuple[float | None, float | None, float | None]:
    """Return what is known of the contract at a moment, by a loop over its rows."""
    first: dict[tuple[str, int], dict[str, float]] = {}
    for row in derivatives.sort("known_at_ms").iter_rows(named=True):
        first.setdefault((row["kind"], row["time_ms"]), row)
    known = {key: row for key, row in first.items() if key[1] <= at_ms - PUBLISHED_MS}
    interest = {t: row["open_interest"] for (kind, t), row in known.items() if kind == "open_interest" and t % M5 == 0}
    newest = [value for t, value in sorted(interest.items()) if t > at_ms - PUBLISHED_MS - 6 * M5]
    day = [value for t, value in interest.items() if t > at_ms - PUBLISHED_MS - DAY_MS]
    rates = [
        row["funding_rate"]
        for (kind, t), row in sorted(known.items())
        if kind == "funding" and t >= at_ms - STALE_FUNDING_MS
    ]
    return (
        newest[-1] if newest else None,
        sum(day) / len(day) if len(day) >= FEWEST else None,
        rates[-1] if rates else None,
    )


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=25)
def test_of_the_contract_a_state_has_what_was_published_and_never_a_zero(
    seed: int, share: float, sampled: bool
) -> None:
    """Rows are left out at random, whole hours too; samples between the five minutes change nothing."""
    random = np.random.default_rng(seed)
    day = contract().filter(pl.col("time_ms").is_between(LO - HISTORY_MS, LO + DAY_MS))
    kept = day.filter(
        pl.Series(random.random(len(day)) < share), (pl.col("time_ms") // HOUR_MS) % 5 != int(random.integers(5))
    )
    if sampled:
        between = open_interest_rows([OpenInterest(LO + 5 * HOUR_MS + n * 77_777, 1.0) for n in range(50)], 0)
        kept = pl.concat([kept, between.filter(pl.col("time_ms") % M5 != 0)])
    times = np.arange(LO, LO + DAY_MS, INTERVAL_MS)
    found = contract_at(kept.sample(fraction=1.0, shuffle=True, seed=seed), times)
    for place, at_ms in enumerate(times.tolist()):
        expected = said_of(at_ms, kept)
        values = [float(column[place]) for column in found.values()]
        assert values == pytest.approx(
            [math.nan if value is None else value for value in expected], rel=1e-12, nan_ok=True
        )


def test_without_a_contract_its_values_are_unknown() -> None:
    states = remembered(market(), LO, LO + DAY_MS, pl.DataFrame(schema=DERIVATIVE_SCHEMA)).states
    for name in ("open_interest_latest", "open_interest_avg_24h", "funding_rate"):
        assert states[name].null_count() == len(states) == 96
        assert truth().states[name].null_count() == 0
