"""`python -m tests.faults.stepping_clock …`: a collector whose clock jumps by an hour, to and fro, every two seconds."""

import sys
import time

_true = time.time


def _stepping() -> float:
    now_s = _true()
    return now_s + (3600.0, 0.0, -3600.0, 0.0)[int(now_s / 2) % 4]


if __name__ == "__main__":
    time.time = _stepping
    from resources import collector

    sys.exit(collector.main())
