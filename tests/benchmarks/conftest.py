"""Here every way runs and must give our result; how fast it is takes rounds and a quiet machine, as `trading bench` does."""

import pytest

from benchmarks import comparison


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "most_rounds", 1)
