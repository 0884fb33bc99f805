"""A time that could be read in two ways is refused, and what is read is never later than what was said."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.provider.moments import BadMoment, BadRange, UnknownTimeframe, moment_ms, range_ms, timeframe_of

NOW = 1_700_000_000_123
UTC_NOW = datetime(2023, 11, 14, 22, 13, 20, 123_999, tzinfo=UTC)


@pytest.mark.parametrize(
    "moment",
    [NOW, np.int64(NOW), UTC_NOW, pd.Timestamp(UTC_NOW), UTC_NOW.astimezone(ZoneInfo("UTC"))],
)
def test_one_moment_in_its_forms(moment: Any) -> None:
    assert moment_ms(moment) == NOW


@pytest.mark.parametrize(
    ("moment", "why"),
    [
        (UTC_NOW.replace(tzinfo=None), "no time zone"),
        (UTC_NOW.astimezone(ZoneInfo("America/New_York")), "in EST, not UTC"),
        (UTC_NOW.astimezone(ZoneInfo("Europe/London")), "in GMT, not UTC"),
        (UTC_NOW.astimezone(timezone(timedelta(hours=1))), "not UTC"),
        (NOW // 1_000, "looks like seconds"),
        (NOW * 1_000, "looks like microseconds"),
        (NOW * 1_000_000, "looks like nanoseconds"),
        (0, "not in milliseconds"),
        (2**80, "not in milliseconds"),
        (float(NOW), "is no moment"),
        (True, "is no moment"),
        (None, "is no moment"),
        ("2023-11-14", "is no moment"),
        (datetime(1999, 1, 1, tzinfo=UTC), "not in milliseconds"),
    ],
)
def test_any_other_time_is_refused(moment: Any, why: str) -> None:
    with pytest.raises(BadMoment, match=why):
        moment_ms(moment)


def test_the_future_is_refused_by_the_exchanges_clock() -> None:
    assert moment_ms(NOW, now_ms=NOW) == NOW
    with pytest.raises(BadMoment, match=r"2023-11-14T22:13:20\.124Z is in the future"):
        moment_ms(NOW + 1, now_ms=NOW)


@given(st.datetimes(datetime(2002, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_part_of_a_millisecond_is_cut(moment: datetime) -> None:
    read = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms(moment))
    assert timedelta() <= moment - read < timedelta(milliseconds=1)


def test_a_reversed_or_empty_range_is_refused() -> None:
    assert range_ms(NOW, UTC_NOW + timedelta(seconds=1)) == (NOW, NOW + 1_000)
    for hi in (NOW, NOW - 1):
        with pytest.raises(BadRange, match="holds no moment"):
            range_ms(NOW, hi)


@pytest.mark.parametrize("name", ["7m", "1M", "", None, 60])
def test_an_unknown_timeframe_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(UnknownTimeframe, match="1s, 1m, 3m"):
        timeframe_of(name)
    assert timeframe_of("4h") == "4h"
