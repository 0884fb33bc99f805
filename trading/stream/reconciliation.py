"""What two sources say of the same trades, compared by id.

Ids are the exchange's own, so that a trade of one source and a trade of another with the same id must be equal in every
field; where they are not, somebody is wrong, and which one is for the reader to decide. Nothing here fetches or stores.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.trade import TRADE_SCHEMA
from trading.stream.contiguity import IdSpans, in_spans, spans_of

Ids = NDArray[np.int64]
FIELDS = tuple(TRADE_SCHEMA)[1:]


class Difference(NamedTuple):
    """Ids that one source has and the other lacks, and ids of which they say different things; each in order."""

    only_left: Ids
    only_right: Ids
    unlike: Ids

    @property
    def ids(self) -> Ids:
        """All of them, in order."""
        return np.sort(np.concatenate(self))


def difference(left: pl.DataFrame, right: pl.DataFrame) -> Difference:
    """Compare trades (`TRADE_SCHEMA`, each id once) by id."""
    both = left.join(right, on="agg_trade_id", how="inner", suffix="_right")
    unlike = both.filter(pl.any_horizontal(pl.col(name) != pl.col(f"{name}_right") for name in FIELDS))
    return Difference(
        _ids(left.join(right, on="agg_trade_id", how="anti")),
        _ids(right.join(left, on="agg_trade_id", how="anti")),
        _ids(unlike),
    )


class ArchiveMerge(NamedTuple):
    """What a file of the archive changes in a day that is stored.

    Attributes:
        trades: Rows to be written.
        taken: Ids that then have an archive's row.
        added: Ids that were absent.
        changed: Ids of which an earlier version of the file had brought something else.
        kept: Ids that differ from what came off the stream or REST, and stay.
        withdrawn: Ids that an earlier version had brought and this one lacks; they stay too.
    """

    trades: pl.DataFrame
    taken: IdSpans
    added: IdSpans
    changed: IdSpans
    kept: IdSpans
    withdrawn: IdSpans


def merged(published: pl.DataFrame, stored: pl.DataFrame, collected: Sequence[int], taken: IdSpans) -> ArchiveMerge:
    """Return what a file brings to a day: what is absent, and what an earlier version of it brought otherwise.

    Args:
        published: Trades of the file.
        stored: Trades that are stored of that day or have an id of the file.
        collected: Ids that the journal holds of that day; they are never the archive's.
        taken: Ids whose stored row an earlier reading of the archive has brought.
    """
    apart = difference(published, stored)
    ours = np.asarray(collected, np.int64)
    mine = in_spans(apart.unlike, taken) & ~np.isin(apart.unlike, ours)
    changed, kept = apart.unlike[mine], apart.unlike[~mine]
    withdrawn = apart.only_right[in_spans(apart.only_right, taken) & ~np.isin(apart.only_right, ours)]
    wanted = pl.DataFrame({"agg_trade_id": np.concatenate([apart.only_left, changed])})
    before = _ids(stored)
    still = before[in_spans(before, taken) & ~np.isin(before, ours)]
    return ArchiveMerge(
        published.join(wanted, on="agg_trade_id", how="semi"),
        spans_of(np.concatenate([still, apart.only_left])),
        spans_of(apart.only_left),
        spans_of(changed),
        spans_of(kept),
        spans_of(withdrawn),
    )


def _ids(trades: pl.DataFrame) -> Ids:
    return np.sort(trades["agg_trade_id"].to_numpy())
