from hypothesis import given
from hypothesis import strategies as st

from trading.market.trade import AggTrade
from trading.stream.contiguity import Arrival, IdRange, Ledger, missing_ids

FIRST, SINCE_MS = 100, 1_700_000_000_000


def trade(number: int) -> AggTrade:
    return AggTrade(number, 1, 1, number, number, SINCE_MS + 10 * number, False)


def opened() -> Ledger:
    ledger = Ledger()
    ledger.open(FIRST, SINCE_MS)
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
        assert (ledger.arrival(trade(number)) is Arrival.KNOWN) == known
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
    assert ledger.arrival(trade(FIRST + 1)) is Arrival.NEW
    assert ledger.arrival(trade(FIRST + 1001)) is Arrival.AFTER_HOLE


def test_the_exchange_may_confirm_a_silence() -> None:
    ledger = opened()
    ledger.take(trade(FIRST))
    ledger.confirm(SINCE_MS + 60_000)
    assert ledger.ranges[-1].proven_until_ms == SINCE_MS + 60_000
