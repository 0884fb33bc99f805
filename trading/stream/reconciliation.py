"""What two sources say of the same trades, compared by id.

Ids are the exchange's own, so that a trade of one source and a trade of another with the same id must be equal in every
field; where they are not, somebody is wrong, and which one is for the reader to decide. Nothing here fetches or stores.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.trade import TRADE_SCHEMA
from trading.stream.contiguity import IdSpans, in_spans, spans_of

Ids = NDArray[np.int64]
FIELDS: Final = tuple(TRADE_SCHEMA)[1:]
NAMED: Final = 5
"""Stretches of ids that a sentence names before it breaks off."""


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


class Source(NamedTuple):
    """What one source says of a day.

    Attributes:
        name: `websocket`, `rest` or `archive`.
        trades: `TRADE_SCHEMA`, each id once.
        spans: Ids of which it has every one that exists, by its own account.
        absent: Why it has nothing to say; empty where it has.
    """

    name: str
    trades: pl.DataFrame
    spans: IdSpans
    absent: str = ""

    @classmethod
    def without(cls, name: str, reason: str) -> "Source":
        """Return a source that has nothing to say."""
        return cls(name, pl.DataFrame(schema=TRADE_SCHEMA), (), reason)


class Reconciliation(NamedTuple):
    """The verdict on one day: `equal`, `differs` or `not_comparable`, why, and how many ids differ from which one on."""

    verdict: str
    reason: str
    differing_rows: int
    first_differing: int | None


def reconciled(sources: Sequence[Source]) -> Reconciliation:
    """Compare each two sources where both claim to have every trade."""
    differing, said, equal = list[Ids](), list[str](), list[str]()
    for left, right in combinations(sources, 2):
        ours, theirs = _within(left.trades, right.spans), _within(right.trades, left.spans)
        ids = difference(ours, theirs).ids
        if len(ids):
            spans = spans_of(ids)
            named = ", ".join(f"{a}…{b}" if b > a else str(a) for a, b in spans[:NAMED])
            said.append(f"{left.name} and {right.name} differ at {len(ids)} ids: {named}{' …' * (len(spans) > NAMED)}")
            differing.append(ids)
        elif len(ours):
            equal.append(f"{left.name} and {right.name} agree on {len(ours)} ids")
    if differing:
        ids = np.unique(np.concatenate(differing))
        return Reconciliation("differs", "; ".join(said), len(ids), int(ids[0]))
    if equal:
        return Reconciliation("equal", "; ".join(equal), 0, None)
    reasons = [f"{source.name}: {source.absent}" for source in sources if source.absent]
    return Reconciliation("not_comparable", "; ".join(reasons) or "no two sources have a trade in common", 0, None)


def sample_starts(spans: IdSpans, page: int, seed: str, drawn: int = 3) -> list[int]:
    """Return from which ids pages are asked for: the first page, the last, some drawn by seed, and what is missing between.

    Args:
        spans: Ids that are held; never empty.
        page: Ids in a page.
        seed: The same seed draws the same pages.
        drawn: How many are drawn.
    """
    first, last = spans[0][0], spans[-1][1]
    digests = [hashlib.sha256(f"{seed}|{number}".encode()).digest() for number in range(drawn)]
    starts = {first, max(first, last - page + 1)}
    starts |= {first + int.from_bytes(digest[:8], "big") % (last - first + 1) for digest in digests}
    starts |= {before[1] for before, _ in pairwise(spans[: drawn + 1])}
    return sorted(starts)


def _within(trades: pl.DataFrame, spans: IdSpans) -> pl.DataFrame:
    return trades.filter(pl.Series(in_spans(trades["agg_trade_id"].to_numpy(), spans)))


def _ids(trades: pl.DataFrame) -> Ids:
    return np.sort(trades["agg_trade_id"].to_numpy())
