"""What a perpetual contract says beside its trades: how much of it is open, what funding costs, what it is marked at.

Rates are fractions of the notional for one funding interval, prices are in the quote coin and finer than a tick, open
interest is in the base coin. Unknown is None, never 0.
"""

import msgspec


class AssetContext(msgspec.Struct, frozen=True):
    """What a venue says of one contract at one moment.

    Attributes:
        time_ms: Exchange time; None where the venue does not say.
        open_interest: Contracts that are open, in the base coin.
        open_interest_value: The same in the quote coin.
        funding_rate: Of the funding that comes next.
        funding_interval_h: Hours between fundings.
        next_funding_time_ms: When it comes.
        mark_price: What positions are valued at.
        index_price: Of the market under the contract; Hyperliquid calls it oracle price.
        partial: Only what has changed is given; see `after`.
    """

    time_ms: int | None = None
    open_interest: float | None = None
    open_interest_value: float | None = None
    funding_rate: float | None = None
    funding_interval_h: int | None = None
    next_funding_time_ms: int | None = None
    mark_price: float | None = None
    index_price: float | None = None
    partial: bool = False

    def after(self, earlier: "AssetContext | None") -> "AssetContext":
        """Return the whole context, where this one may name only what changed since `earlier`."""
        if not self.partial or earlier is None:
            return self
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(earlier, **given | {"partial": earlier.partial})


class OpenInterest(msgspec.Struct, frozen=True):
    """Open interest at one moment: in the base coin, and in the quote coin where the venue says."""

    time_ms: int
    open_interest: float
    open_interest_value: float | None = None


class Funding(msgspec.Struct, frozen=True):
    """One funding that was settled, as a fraction of the notional; with the mark price where the venue says."""

    time_ms: int
    funding_rate: float
    mark_price: float | None = None
