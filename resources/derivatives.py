"""Derivatives data of the exchange that a home is set to, for synchronous callers.

The contract of a symbol is the perpetual of the same name. An exchange without a futures root, and a symbol without a
contract, are no errors: there is nothing to fetch, and why is said.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import polars as pl

from resources.binance import UnknownSymbol
from resources.binance_usdm import NoFuturesRoot, UsdmRest, oldest_kept_ms
from resources.timescale.loop import wait
from trading.market.derivatives import DERIVATIVE_SCHEMA, funding_rows, mark_rows, open_interest_rows


@dataclass(frozen=True)
class Fetched:
    """What an exchange says of one symbol.

    Attributes:
        rows: `DERIVATIVE_SCHEMA`.
        now_ms: The exchange's clock.
        served_from_ms: By kind, the oldest moment that the exchange still serves; a kind that it serves only for now is
            not named.
        absent: Why there is nothing to fetch; empty: there is.
    """

    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DERIVATIVE_SCHEMA))
    now_ms: int = 0
    served_from_ms: dict[str, int] = field(default_factory=dict)
    absent: str = ""


class FuturesExchange:
    """The futures root of an exchange.

    Args:
        base_url: Root of the REST interface; empty: there is none.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    def __init__(self, base_url: str, budget_file: Path | None = None) -> None:
        self._base_url, self._budget_file = base_url, budget_file

    @cached_property
    def _rest(self) -> UsdmRest:
        return UsdmRest(self._base_url, self._budget_file)

    def fetch(self, symbol: str, lo_ms: int, hi_ms: int) -> Fetched:
        """Return open interest, fundings and, where now is inside, the mark price of `[lo_ms, hi_ms)`."""
        if not self._base_url:
            return Fetched(absent="no futures root is set; set TRADING_FUTURES_REST_URL")
        try:
            return wait(fetch_from(self._rest, symbol, lo_ms, hi_ms))
        except (NoFuturesRoot, UnknownSymbol) as error:
            return Fetched(absent=str(error))

    def close(self) -> None:
        """Close the connections."""
        if "_rest" in self.__dict__:
            wait(self._rest.close())


async def fetch_from(rest: UsdmRest, symbol: str, lo_ms: int, hi_ms: int) -> Fetched:
    """Return what a futures root says of `[lo_ms, hi_ms)`; raises what its client raises."""
    now_ms = await rest.server_time()
    until_ms = min(hi_ms, now_ms + 1)
    fundings = await rest.fundings(symbol, lo_ms, until_ms)
    interest = await rest.open_interest_history(symbol, lo_ms, until_ms, now_ms)
    marks = []
    if lo_ms <= now_ms < hi_ms:
        marks = [await rest.premium_index(symbol)]
        interest.append(await rest.open_interest(symbol))
    # Asked for last: nothing is known before it was said.
    known_at_ms = await rest.server_time()
    rows = pl.concat(
        [
            open_interest_rows(interest, known_at_ms),
            funding_rows(fundings, known_at_ms),
            mark_rows(marks, known_at_ms),
        ]
    )
    inside = rows.filter(pl.col("time_ms").is_between(lo_ms, hi_ms, closed="left"))
    return Fetched(inside, known_at_ms, {"open_interest": oldest_kept_ms(now_ms), "funding": 0})
