from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.market.timeframe import DAY_MS, HOUR_MS, Timeframe
from trading_assets.cli.options import BadMoment, moment_ms

NEW_YORK = ZoneInfo("America/New_York")


@given(st.integers(-(10**14), 10**14), st.sampled_from(list(Timeframe)))
def test_a_bucket_holds_its_moment_and_ceil_is_the_next_edge(time_ms: int, timeframe: Timeframe) -> None:
    opened = timeframe.floor(time_ms)
    assert opened % timeframe.ms == 0
    assert opened <= time_ms < opened + timeframe.ms
    assert timeframe.ceil(time_ms) == (opened if opened == time_ms else opened + timeframe.ms)


@pytest.mark.parametrize("day", [datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)])
def test_a_change_of_clocks_somewhere_changes_no_bucket(day: datetime) -> None:
    midnight = int(day.timestamp() * 1000)
    assert [Timeframe.H4.floor(midnight + hour * HOUR_MS) for hour in range(0, 24, 4)] == [
        midnight + hour * HOUR_MS for hour in range(0, 24, 4)
    ]
    local = datetime.fromtimestamp(midnight / 1000, NEW_YORK)
    assert moment_ms(local.isoformat(), 0, "--start") == midnight


def test_times_after_2038_are_exact() -> None:
    assert moment_ms("2039-01-01T00:00:00Z", 0, "--start") == 2_177_452_800_000
    assert Timeframe.D1.floor(2_177_452_800_000 + DAY_MS - 1) == 2_177_452_800_000


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2025-02-30", "2026-13-01", "yesterday", "", "1e400"])
def test_a_moment_that_does_not_exist_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(BadMoment, match="--start"):
        moment_ms(text, 0, "--start")
