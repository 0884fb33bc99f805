"""A stream set is what one collector keeps of one kind of market: which client answers it, and where its streams are."""

from typing import Final, NamedTuple

from resources.binance import BinanceRest
from resources.binance_usdm import UsdmRest

KLINES: Final = "kline_1m"
MARKS: Final = "markPrice@1s"


class StreamSet(NamedTuple):
    """One kind of market of Binance.

    Attributes:
        kind: `spot` or `usdm`.
        rest: Client of its REST interface.
        trades_root: Path under which trades, klines and mark prices are sent.
        books_root: Path under which order books are.
        beside: Streams that are always taken beside the trades, in the same connection.
    """

    kind: str
    rest: type[BinanceRest]
    trades_root: str
    books_root: str
    beside: tuple[str, ...]


SPOT: Final = StreamSet("spot", BinanceRest, "", "", ())

USDM: Final = StreamSet("usdm", UsdmRest, "/market", "/public", (MARKS,))
"""Split since 2026-04-23: what a root does not carry it accepts, and is silent on."""
