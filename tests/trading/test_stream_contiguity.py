from itertools import pairwise
from random import Random
from time import perf_counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.trade import AggTrade
from trading.stream.contiguity import (
    IdRange,
    Ledger,
    claims_of,
    gaps,
    missing_ids,
    proven_ranges,
    united,
)

FIRST, SINCE_MS = 100, 1_700_000_000_000


def trade(number: int) -> AggTrade:
    return AggTrade(number, 1, 1, number, number, SINCE_MS + 10 * number, False)


def opened() -> Ledger:
    ledger = Ledger()
    ledger.begin(FIRST, SINCE_MS)
    return ledger


def runs_of(numbers: set[int]) -> list[tuple[int, int]]:
    starts = sorted(n for n in numbers if n - 1 not in numbers)
    ends = sorted(n for n in numbers if n + 1 not in numbers)
    return list(zip(starts, ends, strict=True))


arrivals = st.lists(st.integers(FIRST, FIRST + 60), max_size=120)


@given(arrivals)
def test_a_ledger_holds_what_arrived_in_any_order_and_names_the_rest(numbers: list[int]) -> None:
    ledger = opened()
    for number in numbers:
        known = ledger.holds(number)
        assert ledger.holds(number) == known
        ledger.take(trade(number))
    held = set(numbers)
    assert [(r.first_id, r.last_id) for r in ledger.ranges if r.last_id >= r.first_id] == runs_of(held)
    missing = {n for first, last in ledger.holes() for n in range(first, last + 1)}
    assert missing == (set(range(FIRST, max(held) + 1)) - held if held else set())


@given(arrivals)
def test_filling_the_holes_leaves_one_range_proven_from_the_start(numbers: list[int]) -> None:
    ledger = opened()
    for number in numbers:
        ledger.take(trade(number))
    for first, last in ledger.holes():
        for number in range(first, last + 1):
            ledger.take(trade(number))
    (proof,) = ledger.ranges
    assert (proof.first_id, proof.last_id) == (FIRST, max(numbers, default=FIRST - 1))
    assert proof.proven_from_ms == SINCE_MS


@given(arrivals)
def test_each_proven_moment_has_all_its_trades(numbers: list[int]) -> None:
    ledger = opened()
    for number in numbers:
        ledger.take(trade(number))
    for proof in ledger.ranges:
        moments = range(proof.proven_from_ms, proof.proven_until_ms)
        inside = {n for n in range(FIRST, FIRST + 61) if trade(n).time_ms in moments}
        assert inside <= set(numbers)


@given(st.integers(0, 30), st.integers(0, 30))
def test_ids_that_were_lost_and_fetched_again_leave_the_ledger_as_it_was(start: int, length: int) -> None:
    ledger = opened()
    for number in range(FIRST, FIRST + 61):
        ledger.take(trade(number))
    before = Ledger(ledger.ranges).ranges
    ledger.forget(FIRST + start, FIRST + start + length)
    assert not ledger.holds(FIRST + start)
    for number in range(FIRST + start, FIRST + start + length + 1):
        ledger.take(trade(number))
    assert ledger.ranges == before


@given(st.sets(st.integers(0, 50)), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=4))
def test_missing_ids_are_the_claimed_ones_that_are_not_held(held: set[int], spans: list[tuple[int, int]]) -> None:
    claimed, floor = [], 0
    for first, length in sorted(spans):
        if first >= floor:
            claimed.append(IdRange(first, first + length, 0, 0))
            floor = first + length + 2
    missing = [n for first, last in missing_ids(claimed, sorted(held)) for n in range(first, last + 1)]
    assert missing == [n for c in claimed for n in range(c.first_id, c.last_id + 1) if n not in held]


def test_a_jump_of_ids_is_a_hole_at_once() -> None:
    ledger = opened()
    ledger.take(trade(FIRST))
    ledger.take(trade(FIRST + 1))
    assert ledger.holes() == []
    ledger.take(trade(FIRST + 1001))
    assert ledger.holes() == [(FIRST + 2, FIRST + 1000)]


def test_the_exchange_may_confirm_a_silence() -> None:
    ledger = opened()
    ledger.take(trade(FIRST))
    ledger.confirm(ledger.next_id, SINCE_MS + 60_000)
    assert ledger.ranges[-1].proven_until_ms == SINCE_MS + 60_000


@settings(max_examples=500)
@given(
    st.lists(st.integers(0, 4), min_size=10, max_size=30),
    st.sets(st.integers(0, 29), max_size=8),
    st.sets(st.integers(0, 28), max_size=2),
    st.integers(0, 30),
    st.integers(1, 120),
)
def test_what_a_store_proves_is_what_is_claimed_without_the_moments_around_lost_trades(
    steps: list[int], lost: set[int], cuts: set[int], lo: int, length: int
) -> None:
    """Against a model that walks each millisecond: proven where a claim covers it and no absent trade could have been."""
    times = [sum(steps[: n + 1]) for n in range(len(steps))]  # trade n is at times[n]; several may share a millisecond
    firsts = [0, *(cut + 1 for cut in sorted(cuts) if cut + 1 < len(steps))]
    claims = [
        IdRange(first, last, times[first] + 1 if first else 0, times[last])
        for first, last in zip(firsts, [*(f - 1 for f in firsts[1:]), len(steps) - 1], strict=True)
    ]
    hi = lo + length
    held = [n for n in range(len(steps)) if n not in lost]
    before, after = [n for n in held if times[n] < lo][-1:], [n for n in held if times[n] >= hi][:1]
    seen = sorted({*before, *(n for n in held if lo <= times[n] < hi), *after})

    proven = proven_ranges(claims, seen, [times[n] for n in seen], lo, hi)

    moments = {ms for r in proven for ms in range(r.proven_from_ms, r.proven_until_ms)}
    assert len(moments) == sum(r.proven_until_ms - r.proven_from_ms for r in proven)
    for claim in claims:
        for ms in range(max(lo, claim.proven_from_ms), min(hi, claim.proven_until_ms)):
            # An absent trade's moment is only known to lie between its neighbours of the same claim.
            mine = [n for n in seen if claim.first_id <= n <= claim.last_id]
            left, right = [n for n in mine if times[n] < ms][-1:], [n for n in mine if times[n] > ms][:1]
            left_id = left[0] if left else claim.first_id - 1
            right_id = right[0] if right else claim.last_id + 1
            whole = all(n in seen for n in range(left_id + 1, right_id))
            assert (ms in moments) == whole, (ms, claim)
    assert moments <= set(range(lo, hi))
    for r in proven:
        inside = [n for n in seen if r.proven_from_ms <= times[n] < r.proven_until_ms]
        assert inside == list(range(r.first_id, r.last_id + 1))


def moments(ranges: list[tuple[int, int]]) -> set[int]:
    return {moment for from_ms, until_ms in ranges for moment in range(from_ms, until_ms)}


@given(st.sets(st.integers(0, 30)), st.data())
def test_ids_that_follow_each_other_prove_what_lies_between_them(ids: set[int], data: st.DataObject) -> None:
    held = sorted(ids)
    times = sorted(data.draw(st.lists(st.integers(0, 200), min_size=len(held), max_size=len(held))))
    claims = claims_of(held, times)
    assert [(c.first_id, c.last_id) for c in claims] == runs_of(ids)
    proven = moments([(r.proven_from_ms, r.proven_until_ms) for r in proven_ranges(claims, held, times, 0, 300)])
    at = dict(zip(held, times, strict=True))
    between = [(at[n] + 1, at[m]) for n, m in runs_of(ids)]
    assert proven == moments(between)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 9)), max_size=6), st.randoms())
def test_claims_are_made_one_where_their_ids_meet_in_any_order(pairs: list[tuple[int, int]], random: Random) -> None:
    claims = [IdRange(first, first + more, 10 * first, 10 * (first + more)) for first, more in pairs]
    one = united(claims)
    random.shuffle(claims)
    assert united(claims) == one
    assert all(b.first_id > a.last_id + 1 for a, b in pairwise(one))
    ids = {n for c in claims for n in range(c.first_id, c.last_id + 1)}
    assert {n for c in one for n in range(c.first_id, c.last_id + 1)} == ids
    for claim in claims:
        assert any(c.first_id <= claim.first_id and c.last_id >= claim.last_id for c in one)


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6))
def test_gaps_are_the_moments_that_nothing_proves(lo_ms: int, length: int, pieces: list[tuple[int, int]]) -> None:
    proven = [(start, start + more) for start, more in pieces]
    found = gaps(lo_ms, lo_ms + length, proven)
    assert moments(found) == set(range(lo_ms, lo_ms + length)) - moments(proven)
    assert all(from_ms < until_ms for from_ms, until_ms in found)


def test_a_new_trade_costs_as_much_behind_many_holes_as_behind_none() -> None:
    """While REST refuses for a day, holes pile up by the thousand."""

    def seconds(ledger: Ledger) -> float:
        started = perf_counter()
        for number in range(ledger.next_id or 0, (ledger.next_id or 0) + 1_000):
            assert not ledger.holds(number)
            ledger.take(trade(number))
        return perf_counter() - started

    full_of_holes = Ledger(IdRange(n, n, SINCE_MS, SINCE_MS) for n in range(FIRST, FIRST + 60_000, 3))
    assert min(seconds(full_of_holes) for _ in range(3)) < 20 * min(seconds(opened()) for _ in range(3))
