"""The supervisor's decisions."""

from dataclasses import replace

import pytest

from trading.stream.supervision import (
    FIRST_BEAT_S,
    GRACE_S,
    RECENT_S,
    SILENT_S,
    Launch,
    Situation,
    Terminate,
    Wait,
    Wish,
    pause_s,
    supervise,
)

RUNNING = Situation(in_progress=True, started=True, running_s=600, heartbeat_age_s=0.5)
FAILED = Situation(failures=4, since_failure_s=3.0)

DECISIONS = [
    ("a stream that was never started is launched", Situation(), Launch),
    ("a stopped one stays stopped", Situation(wish=Wish.STOPPED), Wait),
    ("one whose run was canceled before it could note the wish stays stopped", Situation(canceled=True), Wait),
    ("a queued one is not launched twice", Situation(in_progress=True), Wait),
    ("a beating one is left alone", RUNNING, Wait),
    ("one that beat just within the limit is left alone", replace(RUNNING, heartbeat_age_s=SILENT_S), Wait),
    ("one that fell silent is ended", replace(RUNNING, heartbeat_age_s=SILENT_S + 1), Terminate),
    ("one that still imports is left alone", replace(RUNNING, running_s=40, heartbeat_age_s=None), Wait),
    ("an earlier run's beat says nothing of this one", replace(RUNNING, running_s=40, heartbeat_age_s=300), Wait),
    ("one that never beat is ended", replace(RUNNING, running_s=FIRST_BEAT_S + 1, heartbeat_age_s=None), Terminate),
    ("after the first failure there is no pause", Situation(failures=1, since_failure_s=0.0), Launch),
    ("after more failures there is one", FAILED, Wait),
    ("which ends", replace(FAILED, since_failure_s=pause_s(4)), Launch),
    ("failures do not wake a stopped one", replace(FAILED, wish=Wish.STOPPED, since_failure_s=RECENT_S), Wait),
]


@pytest.mark.parametrize(("situation", "expected"), [row[1:] for row in DECISIONS], ids=[row[0] for row in DECISIONS])
def test_the_supervisor_decides(situation: Situation, expected: type) -> None:
    assert isinstance(supervise(situation), expected)


def test_a_silent_collector_is_asked_before_it_is_killed() -> None:
    asked = supervise(replace(RUNNING, heartbeat_age_s=SILENT_S + 1))
    killed = supervise(replace(RUNNING, heartbeat_age_s=SILENT_S + GRACE_S + 1))
    assert isinstance(asked, Terminate) and not asked.force
    assert isinstance(killed, Terminate) and killed.force


def test_pauses_grow_to_a_minute() -> None:
    assert [pause_s(n) for n in (0, 1, 2, 3, 4, 7, 100)] == [0, 0, 2, 4, 8, 60, 60]
