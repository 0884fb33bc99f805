"""What the REST clients of several venues share: answers that cannot be read, names, and pages of a stretch of time."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from resources.binance import UnknownSymbol
from resources.rest_root import ExchangeAnswer
from trading.market.instrument import Instrument
from trading.stream.wire import BadFrame


class Dated(Protocol):
    """Something that happened at a moment."""

    @property
    def time_ms(self) -> int:
        """Exchange time, epoch milliseconds."""
        ...


Decoded = TypeVar("Decoded")
Row = TypeVar("Row", bound=Dated)


def read_answer(call: str, decode: Callable[[bytes], Decoded], body: bytes) -> Decoded:
    """Return a decoded answer; raises `ExchangeAnswer`."""
    try:
        return decode(body)
    except BadFrame as error:
        raise ExchangeAnswer(f"the answer to {call} is not in its form: {error.message}", "try again later") from None


def chosen(found: Mapping[str, Instrument], names: Sequence[str], what: str) -> dict[str, Instrument]:
    """Return the instruments of some names; raises `UnknownSymbol` for one that is not among `what` was found."""
    if missing := [name for name in names if name not in found]:
        raise UnknownSymbol(f"{', '.join(missing)} is not among {what}", "write names as the venue does")
    return {name: found[name] for name in names}


async def forward(ask: Callable[[int], Awaitable[list[Row]]], lo_ms: int, hi_ms: int, page: int) -> list[Row]:
    """Return the rows with time in `[lo_ms, hi_ms)`, page by page onwards.

    Rows of one millisecond that a page's end parts are met again on the next page, which begins in that millisecond.

    Args:
        ask: Returns one page from a moment (ms) on, oldest first.
        lo_ms: Start of the span.
        hi_ms: End of it.
        page: Rows of a full page; a shorter one is the last.
    """
    found: list[Row] = []
    at = lo_ms
    while at < hi_ms:
        rows = await ask(at)
        found += [row for row in rows if lo_ms <= row.time_ms < hi_ms and row not in found[-page:]]
        if len(rows) < page:
            break
        newest = rows[-1].time_ms
        at = newest if newest > at else at + 1  # a whole page in one millisecond cannot be paged through
    return found


async def in_spans(ask: Callable[[int, int], Awaitable[list[Row]]], lo_ms: int, hi_ms: int, step_ms: int) -> list[Row]:
    """Return the rows with time in `[lo_ms, hi_ms)`, asked for in spans that no page is too short for.

    Args:
        ask: Returns the rows from a moment (ms) up to and with another, oldest first.
        lo_ms: Start of the whole.
        hi_ms: End of it.
        step_ms: Length of a span, within which there are at most as many rows as a page holds.
    """
    found: list[Row] = []
    for at in range(lo_ms, hi_ms, step_ms):
        until = min(at + step_ms, hi_ms)
        found += [row for row in await ask(at, until - 1) if at <= row.time_ms < until]
    return found
