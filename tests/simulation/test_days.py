"""Days of faults in virtual time; `SOAK=1` lives through 2,000 of them."""

import os
import time
from itertools import count

from tests.simulation.world import World

SECONDS = 25
FEWEST_DAYS, SOAK_DAYS = 10, 2_000


def test_every_day_ends_with_all_trades_held_once_and_every_absence_named() -> None:
    started, soak = time.monotonic(), bool(os.environ.get("SOAK"))
    counts: dict[str, int] = {}
    for seed in range(SOAK_DAYS) if soak else count():
        world = World(seed)
        try:
            world.run()
        except Exception as error:
            raise AssertionError(f"the day of seed {seed}: {error}") from error
        for name, number in world.counts.items():
            counts[name] = counts.get(name, 0) + number
        if not soak and seed + 1 >= FEWEST_DAYS and time.monotonic() - started > SECONDS:
            break
    print(f"{seed + 1} days in {time.monotonic() - started:.0f} s: {counts}")
