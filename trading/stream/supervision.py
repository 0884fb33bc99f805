"""What a supervisor does about one collector: launch it, end it, or leave it alone.

The wish of the operator is kept apart from what happens to be: a collector that is wanted and not there is launched
again after a pause that grows, one that was stopped by hand stays stopped, and one that runs without a sign of life is
ended so that it can be launched again.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

SILENT_S: Final = 60.0
"""Without a heartbeat for this long, a run that claims to be running is not."""

FIRST_PAUSE_S: Final = 0.0
LONGEST_PAUSE_S: Final = 60.0
RECENT_S: Final = 600.0


class Wish(Enum):
    """What the operator wants of a collector."""

    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Situation:
    """What is known of a collector.

    Attributes:
        wish: What the operator wants.
        in_progress: Whether a run of it is queued, starting or started.
        started: Whether that run has started.
        running_s: Seconds since it started.
        heartbeat_age_s: Seconds since its last sign of life; None: never one.
        failures: Runs of it that failed within `RECENT_S`.
        since_failure_s: Seconds since the last of these ended.
    """

    wish: Wish
    in_progress: bool
    started: bool
    running_s: float
    heartbeat_age_s: float | None
    failures: int
    since_failure_s: float


@dataclass(frozen=True)
class Launch:
    """Launch it."""

    reason: str


@dataclass(frozen=True)
class Terminate:
    """End its run."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Leave it alone."""

    reason: str


def supervise(situation: Situation) -> Launch | Terminate | Wait:
    """Return what to do about a collector."""
    if situation.in_progress:
        age = situation.heartbeat_age_s
        silent = situation.running_s if age is None else min(age, situation.running_s)
        if situation.started and silent > SILENT_S:
            return Terminate(f"no heartbeat for {silent:.0f} s")
        return Wait("alive" if situation.started else "starting")
    if situation.wish is Wish.STOPPED:
        return Wait("stopped by an operator; launch the job to resume")
    pause = pause_s(situation.failures)
    if situation.since_failure_s < pause:
        return Wait(f"failed {situation.failures} times lately; next try in {pause - situation.since_failure_s:.0f} s")
    return Launch("wanted and not running")


def pause_s(failures: int) -> float:
    """Return the pause before the next launch: none after the first failure, then 2, 4, 8 … 60 seconds."""
    return FIRST_PAUSE_S if failures <= 1 else min(LONGEST_PAUSE_S, 2.0 ** (failures - 1))
