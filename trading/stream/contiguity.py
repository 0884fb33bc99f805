"""The ledger of one symbol: which aggregate trade ids are held, and which moments they prove.

Ids of one market are consecutive at the source, so a range of consecutive ids is every trade between its first and its
last. A ledger is an ordered list of such ranges; between two of them trades are missing and named. Nothing here fetches
or stores anything.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from trading.market.trade import AggTrade


class IdRange(msgspec.Struct, array_like=True):
    """Consecutive ids that are held, and the half-open exchange time (ms) in which they are all there is.

    Attributes:
        first_id: First id held.
        last_id: Last id held; one less than `first_id` while there is none.
        proven_from_ms: From here on no trade is missing.
        proven_until_ms: Up to here; a trade of the same millisecond as the last one may still come.
        absent_before: The exchange was asked for the ids between this range and the one before and has none of them.
    """

    first_id: int
    last_id: int
    proven_from_ms: int
    proven_until_ms: int
    absent_before: bool = False


class Ledger:
    """The ranges of one symbol, in order and never touching.

    Args:
        ranges: As `ranges` returned them before.
    """

    def __init__(self, ranges: Iterable[IdRange] = ()) -> None:
        self.ranges = [msgspec.structs.replace(r) for r in ranges]

    @property
    def next_id(self) -> int | None:
        """The id that is expected next, or None before the first."""
        return self.ranges[-1].last_id + 1 if self.ranges else None

    def begin(self, first_id: int, since_ms: int) -> None:
        """Note that there is no trade from `since_ms` on before `first_id`: the exchange said so."""
        for place, held in enumerate(self.ranges):
            if held.first_id <= first_id <= held.last_id + 1:
                held.proven_from_ms = min(held.proven_from_ms, since_ms)
                return
            if first_id < held.first_id:
                self.ranges.insert(place, IdRange(first_id, first_id - 1, since_ms, since_ms))
                return
        self.ranges.append(IdRange(first_id, first_id - 1, since_ms, since_ms))

    def holds(self, agg_trade_id: int) -> bool:
        """Return whether an id is held."""
        # A new trade is behind the last range, and the others need not be looked at: there may be very many.
        for held in reversed(self.ranges):
            if held.first_id <= agg_trade_id:
                return agg_trade_id <= held.last_id
        return False

    def take(self, trade: AggTrade) -> None:
        """Hold one more trade; ranges that it joins become one."""
        number, time_ms = trade.agg_trade_id, trade.time_ms
        for place in range(len(self.ranges) - 1, -1, -1):
            held = self.ranges[place]
            if held.first_id <= number <= held.last_id:
                return
            if number == held.last_id + 1:
                held.last_id = number
                held.proven_until_ms = max(held.proven_until_ms, time_ms)
                self._join(place)
                return
            if number == held.first_id - 1:
                held.first_id, held.proven_from_ms = number, time_ms + 1
                self._join(place - 1)
                return
            if number > held.last_id:
                self.ranges.insert(place + 1, IdRange(number, number, time_ms + 1, time_ms))
                return
        self.ranges.insert(0, IdRange(number, number, time_ms + 1, time_ms))

    def forget(self, first_id: int, last_id: int) -> None:
        """No longer hold `first_id` … `last_id`, all of one range: they were lost and are to be fetched again.

        What the two remaining parts prove alone is not known here; together again they prove what the range did.
        """
        for place, held in enumerate(self.ranges):
            if held.first_id <= first_id and last_id <= held.last_id:
                before = IdRange(held.first_id, first_id - 1, held.proven_from_ms, held.proven_from_ms)
                after = IdRange(last_id + 1, held.last_id, held.proven_until_ms, held.proven_until_ms)
                self.ranges[place : place + 1] = [before, after] if last_id < held.last_id else [before]
                return

    def confirm(self, from_id: int, until_ms: int) -> None:
        """Note that at `until_ms` the exchange knew no trade with an id of `from_id` or later."""
        for held in reversed(self.ranges):
            if held.first_id <= from_id <= held.last_id + 1:
                held.proven_until_ms = max(held.proven_until_ms, until_ms)

    def holes(self) -> list[tuple[int, int]]:
        """Return the missing ids between ranges as (first, last)."""
        return [(a.last_id + 1, b.first_id - 1) for a, b in pairwise(self.ranges)]

    def open_holes(self) -> list[tuple[int, int]]:
        """Return the missing ids that the exchange may still have."""
        return [(a.last_id + 1, b.first_id - 1) for a, b in pairwise(self.ranges) if not b.absent_before]

    def absent_holes(self) -> list[tuple[int, int]]:
        """Return the missing ids that the exchange does not have."""
        return [(a.last_id + 1, b.first_id - 1) for a, b in pairwise(self.ranges) if b.absent_before]

    def mark_absent(self, last_id: int) -> None:
        """Note that the exchange has none of the missing ids up to `last_id`, the last one of a hole."""
        for held in self.ranges[1:]:
            if held.first_id == last_id + 1:
                held.absent_before = True

    def doubt_absent(self) -> None:
        """Treat ids that the exchange did not have like any that are missing."""
        for held in self.ranges:
            held.absent_before = False

    def _join(self, place: int) -> None:
        if not 0 <= place < len(self.ranges) - 1:
            return
        before, after = self.ranges[place], self.ranges[place + 1]
        if before.last_id + 1 >= after.first_id:
            before.last_id = max(before.last_id, after.last_id)
            before.proven_until_ms = max(before.proven_until_ms, after.proven_until_ms)
            del self.ranges[place + 1]


def missing_ids(claimed: Sequence[IdRange], held: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the ids that a ledger claims and that are not among `held` (in order), as (first, last)."""
    ids = np.asarray(held, np.int64)
    missing: list[tuple[int, int]] = []
    for claim in claimed:
        inside = ids[np.searchsorted(ids, claim.first_id) : np.searchsorted(ids, claim.last_id, side="right")]
        edges = np.concatenate(([claim.first_id - 1], inside, [claim.last_id + 1]))
        missing += [(int(edges[n]) + 1, int(edges[n + 1]) - 1) for n in np.flatnonzero(np.diff(edges) > 1)]
    return missing


IdSpans = tuple[tuple[int, int], ...]
"""Ids as (first, last), in order."""


def spans_of(ids: Sequence[int] | NDArray[np.int64]) -> IdSpans:
    """Return ids, in any order, as spans of consecutive ones."""
    number = np.unique(np.asarray(ids, np.int64))
    if not len(number):
        return ()
    breaks = np.flatnonzero(np.diff(number) > 1)
    firsts, lasts = number[np.append(0, breaks + 1)], number[np.append(breaks, len(number) - 1)]
    return tuple(zip(firsts.tolist(), lasts.tolist(), strict=True))


def in_spans(ids: NDArray[np.int64], spans: IdSpans) -> NDArray[np.bool_]:
    """Return for each id whether a span holds it."""
    if not spans:
        return np.zeros(len(ids), bool)
    edges = np.array(spans, np.int64)
    place = np.searchsorted(edges[:, 0], ids, side="right") - 1
    return (place >= 0) & (ids <= edges[place, 1])


def count_of(spans: IdSpans) -> int:
    """Return how many ids are in spans."""
    return sum(last - first + 1 for first, last in spans)


def claims_of(ids: Sequence[int] | NDArray[np.int64], times_ms: Sequence[int] | NDArray[np.int64]) -> list[IdRange]:
    """Return what ids (in order) prove by being consecutive: each run, from after its first trade up to its last."""
    number, moment = np.asarray(ids, np.int64), np.asarray(times_ms, np.int64)
    return [
        IdRange(
            first, last, int(moment[np.searchsorted(number, first)]) + 1, int(moment[np.searchsorted(number, last)])
        )
        for first, last in spans_of(number)
    ]


def united(claims: Iterable[IdRange]) -> list[IdRange]:
    """Return claims, of whichever sources, with those made one whose ids overlap or follow each other."""
    found: list[IdRange] = []
    for claim in sorted(claims, key=lambda c: (c.first_id, c.last_id)):
        if found and claim.first_id <= found[-1].last_id + 1:
            found[-1].last_id = max(found[-1].last_id, claim.last_id)
            found[-1].proven_from_ms = min(found[-1].proven_from_ms, claim.proven_from_ms)
            found[-1].proven_until_ms = max(found[-1].proven_until_ms, claim.proven_until_ms)
        else:
            found.append(msgspec.structs.replace(claim))
    return found


def gaps(lo_ms: int, hi_ms: int, proven: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the half-open stretches of `[lo_ms, hi_ms)` that no proven stretch covers, in order."""
    found, start_ms = list[tuple[int, int]](), lo_ms
    for from_ms, until_ms in sorted(proven):
        if start_ms < min(from_ms, hi_ms):
            found.append((start_ms, min(from_ms, hi_ms)))
        start_ms = max(start_ms, until_ms)
    return [*found, (start_ms, hi_ms)] if start_ms < hi_ms else found


def trimmed(ranges: Iterable[IdRange], first_id: int, since_ms: int) -> list[IdRange]:
    """Return what is left of a ledger when ids before `first_id` and moments before `since_ms` are kept no longer.

    The last range stays even when nothing of it is left, as it says which id is next.
    """
    left: list[IdRange] = []
    for held in ranges:
        first = max(held.first_id, min(first_id, held.last_id + 1))
        proven_from_ms = max(held.proven_from_ms, min(since_ms, held.proven_until_ms))
        if left and left[-1].last_id < left[-1].first_id and left[-1].proven_until_ms <= since_ms:
            left.pop()
        left.append(msgspec.structs.replace(held, first_id=first, proven_from_ms=proven_from_ms))
    return left


def proven_ranges(
    claimed: Sequence[IdRange],
    ids: Sequence[int] | NDArray[np.int64],
    times_ms: Sequence[int] | NDArray[np.int64],
    lo_ms: int,
    hi_ms: int,
) -> list[IdRange]:
    """Return what a store proves of `[lo_ms, hi_ms)`: moments inside a claimed range from which no claimed id is absent.

    Args:
        claimed: Ranges of a ledger.
        ids: Ids that the store holds with a time in the window, in order, and beside them the last one before the window
            and the first one after it, where there are such.
        times_ms: Their exchange times.
        lo_ms: First moment of the window.
        hi_ms: End of the window.

    Returns:
        Ranges in order; one without a trade has `last_id = first_id - 1`. A lost trade may have come in the same
        millisecond as its neighbours, so theirs are proven neither.
    """
    number, moment = np.asarray(ids, np.int64), np.asarray(times_ms, np.int64)
    found: list[IdRange] = []
    for claim in claimed:
        start, until = max(claim.proven_from_ms, lo_ms), min(claim.proven_until_ms, hi_ms)
        mine = (number >= claim.first_id) & (number <= claim.last_id)
        held, at = number[mine], moment[mine]
        lost = claim.last_id >= claim.first_id and not len(held)
        if start >= until or lost:
            continue
        if len(held) and at[0] >= lo_ms and held[0] > claim.first_id:
            start = max(start, int(at[0]) + 1)
        if len(held) and at[-1] < hi_ms and held[-1] < claim.last_id:
            until = min(until, int(at[-1]))
        for place in np.flatnonzero(np.diff(held) > 1):
            found.append(_between(claim, held, at, start, min(until, int(at[place]))))
            start = max(start, int(at[place + 1]) + 1)
        found.append(_between(claim, held, at, start, until))
    return [r for r in found if r.proven_until_ms > r.proven_from_ms]


def _between(claim: IdRange, held: NDArray[np.int64], at: NDArray[np.int64], start_ms: int, until_ms: int) -> IdRange:
    inside = held[(at >= start_ms) & (at < until_ms)]
    if len(inside):
        return IdRange(int(inside.min()), int(inside.max()), start_ms, until_ms)
    before = held[at < start_ms]
    first_id = int(before.max()) + 1 if len(before) else claim.first_id
    return IdRange(first_id, first_id - 1, start_ms, until_ms)
