"""One `trading up` for the tests of a file; the last of them may kill it."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.running import Running, until


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("up")
    running = Running(folder / "home")
    try:
        until(running.said("everything is running"), 200, "the first materialization")
        yield running
    finally:
        running.process.terminate()  # told so, it leaves nothing behind
        running.process.wait(90)
