"""What a supervisor does about one collector: launch it, end it, or leave it alone.

The wish of the operator is kept apart from what happens to be: a collector that is wanted and not there is launched
again after a pause that grows, one that was stopped by hand stays stopped, and one that runs without a sign of life is
ended so that it can be launched again.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

SILENT_S: Final = 15.0
"""Without a heartbeat for this long, a collector that has beaten before hangs."""

FIRST_BEAT_S: Final = 60.0
"""Until its first heartbeat a run imports its libraries, which takes a loaded machine half a minute."""

GRACE_S: Final = 15.0
"""Time between asking a silent collector to end, so that it can flush, and killing it."""

LONGEST_PAUSE_S: Final = 60.0
RECENT_S: Final = 600.0
"""Failures older than this no longer lengthen the pause."""


class Wish(Enum):
    """What the operator wants of a collector."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Situation:
    """What is known of a collector.

    Attributes:
        wish: What the operator wants.
        canceled: Whether its last run was canceled, which only a person does.
        in_progress: Whether a run of it is queued, starting, started or ending.
        started: Whether that run has started and was not told to end.
        running_s: Seconds since it started.
        heartbeat_age_s: Seconds since its last sign of life, also of an earlier run; None: never one.
        failures: Runs of it that failed within `RECENT_S`.
        since_failure_s: Seconds since the last of these ended.
    """

    wish: Wish = Wish.RUNNING
    canceled: bool = False
    in_progress: bool = False
    started: bool = False
    running_s: float = 0.0
    heartbeat_age_s: float | None = None
    failures: int = 0
    since_failure_s: float = RECENT_S


@dataclass(frozen=True)
class Launch:
    """Launch it."""

    reason: str


@dataclass(frozen=True)
class Terminate:
    """End its run; `force` when it was asked before and is still silent."""

    reason: str
    force: bool


@dataclass(frozen=True)
class Wait:
    """Leave it alone."""

    reason: str


def supervise(situation: Situation) -> Launch | Terminate | Wait:
    """Return what to do about a collector."""
    if situation.in_progress:
        return _watch(situation) if situation.started else Wait("starting or ending")
    if situation.canceled or situation.wish is Wish.STOPPED:
        return Wait("stopped by an operator; launch the job to resume")
    pause = pause_s(situation.failures)
    if situation.since_failure_s < pause:
        return Wait(f"failed {situation.failures} times lately; next try in {pause - situation.since_failure_s:.0f} s")
    return Launch("wanted and not running")


def _watch(situation: Situation) -> Terminate | Wait:
    age = situation.heartbeat_age_s
    if age is None or age > situation.running_s:
        silent, allowed = situation.running_s, FIRST_BEAT_S
    else:
        silent, allowed = age, SILENT_S
    if silent <= allowed:
        return Wait("alive")
    return Terminate(f"no heartbeat for {silent:.0f} s", force=silent > allowed + GRACE_S)


def pause_s(failures: int) -> float:
    """Return the pause before the next launch: none after the first failure, then 2, 4, 8 … 60 seconds."""
    return 0.0 if failures <= 1 else min(LONGEST_PAUSE_S, 2.0 ** (failures - 1))
