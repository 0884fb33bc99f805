"""A moment is an epoch millisecond of UTC; whoever asks may say it as an aware UTC `datetime` too.

A time without a zone, or of another one, is refused and not guessed: an hour off is a look into the future. So is a
number of seconds, micro- or nanoseconds.
"""

from datetime import UTC, datetime, timedelta
from numbers import Integral
from typing import Final

from trading.errors import TradingError
from trading.market.timeframe import Timeframe
from trading.stream.wire import MILLISECONDS

Moment = datetime | int

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {"seconds": 1, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}


class BadMoment(TradingError):
    """A time is not in UTC, not in milliseconds, or in the future."""


class BadRange(TradingError):
    """A range of time ends where or before it begins."""


class UnknownTimeframe(TradingError):
    """No bars have this length."""


def moment_ms(moment: datetime | int, now_ms: int | None = None) -> int:
    """Return a moment as epoch milliseconds; a part of one is cut, so that nothing later is known.

    Args:
        moment: Aware datetime in UTC (also pandas' and polars'), or epoch milliseconds.
        now_ms: The exchange's clock; None where the moment may lie in the future.

    Raises:
        BadMoment: It is naive, of another zone, in another unit, or after `now_ms`.
    """
    time_ms = _of_datetime(moment) if isinstance(moment, datetime) else _of_number(moment)
    if now_ms is not None and time_ms > now_ms:
        raise BadMoment(f"{_text(time_ms)} is in the future: the exchange's clock says {_text(now_ms)}")
    return time_ms


def range_ms(lo: datetime | int, hi: datetime | int) -> tuple[int, int]:
    """Return a half-open range as epoch milliseconds; raises `BadMoment` or `BadRange`."""
    lo_ms, hi_ms = moment_ms(lo), moment_ms(hi)
    if hi_ms <= lo_ms:
        raise BadRange(f"the range from {_text(lo_ms)} to {_text(hi_ms)} holds no moment", "give its earlier end first")
    return lo_ms, hi_ms


def timeframe_of(name: str) -> Timeframe:
    """Return a timeframe by its name; raises `UnknownTimeframe`."""
    if name not in tuple(Timeframe):
        raise UnknownTimeframe(f"there are no bars of {str(name)[:20]!r}", f"ask for one of {', '.join(Timeframe)}")
    return Timeframe(name)


def _of_datetime(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise BadMoment(f"{moment} has no time zone", "give it as UTC, e.g. datetime(…, tzinfo=datetime.UTC)")
    # London has no offset in winter, and would have one in summer.
    if moment.utcoffset() != timedelta(0) or moment.tzname() != "UTC":
        raise BadMoment(f"{moment} is in {moment.tzname()}, not UTC", "convert it by astimezone(datetime.UTC)")
    return _of_number((moment - _EPOCH) // timedelta(milliseconds=1))


def _of_number(moment: int) -> int:
    if isinstance(moment, bool) or not isinstance(moment, Integral):
        raise BadMoment(f"{str(moment)[:40]!r} is no moment", "give an aware UTC datetime or epoch milliseconds")
    moment = int(moment)  # a range looks for NumPy's integers one by one
    if moment not in MILLISECONDS:
        told = next((unit for unit, per_second in _UNITS.items() if moment * 1_000 // per_second in MILLISECONDS), "")
        raise BadMoment(
            f"{str(moment)[:24]} is not in milliseconds" + (f" but looks like {told}" if told else ""),
            "give epoch milliseconds, 2001 to 2286",
        )
    return moment


def _text(time_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
