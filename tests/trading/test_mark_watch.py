"""Mark prices that stop coming: the connection is blamed, ever more rarely while that does not help."""

from itertools import pairwise

from trading.stream.mark_watch import LONGEST_PATIENCE_S, PATIENCE_S, MarkWatch

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def blamed(watch: MarkWatch, seconds: range, heard: tuple[str, ...] = (), open_s: float = 0.0) -> list[int]:
    found = []
    for now_s in seconds:
        for symbol in heard:
            watch.heard(symbol, now_s)
        if watch.stalled(now_s, open_s):
            found.append(now_s)
    return found


def test_marks_that_come_blame_nobody() -> None:
    assert blamed(MarkWatch(SYMBOLS), range(600), SYMBOLS) == []


def test_one_silent_symbol_is_enough_and_patience_grows_until_it_is_back() -> None:
    watch = MarkWatch(SYMBOLS)
    found = blamed(watch, range(2000), SYMBOLS[:1])
    assert found[:3] == [11, 32, 73]
    assert max(b - a for a, b in pairwise(found)) <= LONGEST_PATIENCE_S + 1
    assert blamed(watch, range(2000, 2100), SYMBOLS) == []
    assert blamed(watch, range(2100, 2112), SYMBOLS[:1]) == [2099 + PATIENCE_S + 1]


def test_a_connection_that_has_just_opened_is_given_its_time() -> None:
    assert blamed(MarkWatch(SYMBOLS), range(100, 112), open_s=100.0) == [111]
