"""What the exchange puts on the wire of perpetual contracts alone: mark price, funding and open interest."""

import json
from decimal import Decimal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.simulator.derivatives import DECIMALS, FUNDING_MS
from resources.simulator.market import Derivatives
from resources.simulator.wire import name_text
from trading.market.instrument import Instrument

INTEREST_RATE = "0.00010000"


def stream_mark_prices(times_ms: NDArray[np.int64], contract: Derivatives, instrument: Instrument) -> list[str]:
    """Return the mark price of each moment as a websocket event."""
    marks, indices = contract.mark_prices(times_ms), contract.index_prices(times_ms)
    rates, name = contract.funding_rates(times_ms), name_text(instrument)
    return [
        f'{{"e":"markPriceUpdate","E":{at},"s":{name},"p":"{eight(mark)}","ap":"{eight(mark)}","P":"{eight(index)}",'
        f'"i":"{eight(index)}","r":"{eight(rate)}","T":{next_funding(at)},"st":1}}'
        for at, mark, index, rate in zip(*(c.tolist() for c in (times_ms, marks, indices, rates)), strict=True)
    ]


def premium_index(now_ms: int, contract: Derivatives, instrument: Instrument) -> dict[str, object]:
    """Return the element of `premiumIndex`."""
    now = np.array([now_ms])
    index = eight(int(contract.index_prices(now)[0]))
    return {
        "symbol": instrument.name,
        "markPrice": eight(int(contract.mark_prices(now)[0])),
        "indexPrice": index,
        "estimatedSettlePrice": index,
        "lastFundingRate": eight(int(contract.funding_rates(now)[0])),
        "interestRate": INTEREST_RATE,
        "nextFundingTime": next_funding(now_ms),
        "time": now_ms,
    }


def funding_rates(fundings: pl.DataFrame, instrument: Instrument) -> str:
    """Return settled fundings as the REST answer."""
    rows = [
        {"symbol": instrument.name, "fundingTime": at, "fundingRate": eight(rate), "markPrice": eight(mark)}
        for at, rate, mark in fundings.select("time_ms", "rate", "mark_price").iter_rows()
    ]
    return json.dumps(rows, ensure_ascii=False)


def open_interest(now_ms: int, contract: Derivatives, instrument: Instrument) -> str:
    """Return open interest now as the REST answer."""
    lots = int(contract.open_interest(np.array([now_ms]))[0])
    answer = {"symbol": instrument.name, "openInterest": instrument.quantity_text(lots), "time": now_ms}
    return json.dumps(answer, ensure_ascii=False)


def open_interest_history(times_ms: NDArray[np.int64], contract: Derivatives, instrument: Instrument) -> str:
    """Return open interest at each moment as the REST answer, in coins and in money at the mark price."""
    rows = []
    for at, lots, mark in zip(
        times_ms.tolist(),
        contract.open_interest(times_ms).tolist(),
        contract.mark_prices(times_ms).tolist(),
        strict=True,
    ):
        coins = Decimal(lots).scaleb(-instrument.quantity_decimals)
        rows.append(
            {
                "symbol": instrument.name,
                "sumOpenInterest": f"{coins:.8f}",
                "sumOpenInterestValue": f"{coins * Decimal(mark).scaleb(-DECIMALS):.8f}",
                "timestamp": at,
            }
        )
    return json.dumps(rows, ensure_ascii=False)


def next_funding(now_ms: int) -> int:
    """Return when funding is settled next."""
    return (now_ms // FUNDING_MS + 1) * FUNDING_MS


def eight(units: int) -> str:
    """Return units of 1e-8 as text with eight decimals."""
    return f"{Decimal(units).scaleb(-DECIMALS):.8f}"
