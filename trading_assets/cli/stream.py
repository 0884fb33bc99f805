"""`trading stream`: what happens to some symbols, from a moment on, one line an event."""

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from trading_assets.cli.options import BadMoment, moment_ms

if TYPE_CHECKING:
    from resources.stores import Stores
    from trading.provider.events import LiveEvent

UNITS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def since_ms(stores: "Stores", symbols: list[str], since: str) -> int:
    """Return the moment that `1h`, or a date or time, names; a span is counted back from the newest stored trade."""
    span = re.fullmatch(r"(\d{1,6})([smhd])", since)
    if span is None:
        return moment_ms(since, 0, "--since")
    from resources.timescale.tables import TRADE

    newest = [held[1] for symbol in symbols if (held := stores.market.span(TRADE, symbol))]
    if not newest:
        raise BadMoment("no trade is stored from which --since could be counted back", "give a date or time")
    return max(newest) - int(span[1]) * UNITS[span[2]]


def stream(
    stores: "Stores", symbols: list[str], kinds: list[str], since: str, resume: str, limit: int, as_json: bool
) -> str:
    """Print events until interrupted, or so many of them; return where another stream goes on.

    Raises:
        SlowReader: Whoever reads the lines is too slow.
    """
    from resources.live import LiveStreams
    from resources.subscription import Subscription

    for symbol in symbols:
        stores.market.instrument(symbol)
    began_ms = 0 if resume else since_ms(stores, symbols, since)

    async def run() -> str:
        streams, left = LiveStreams(stores.urls.redis), limit
        subscription = Subscription(stores.market, streams, symbols, kinds, began_ms, resume)
        try:
            async for event in subscription.events():
                typer.echo(_line(event, as_json))
                left -= 1
                if left == 0:
                    break
        finally:
            await streams.close()
        return subscription.position

    return asyncio.run(run())


def _line(event: "LiveEvent", as_json: bool) -> str:
    import msgspec

    if as_json:
        return msgspec.json.encode(event.named()).decode()
    moment = datetime.fromtimestamp(event.time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values = {k: v for k, v in event.named().items() if k not in ("kind", "symbol", "time_ms", "id") and v is not None}
    return f"{moment} {event.symbol} {event.kind} {event.id} " + " ".join(f"{k}={v}" for k, v in values.items())
