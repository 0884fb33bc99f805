"""What many tests share: one PostgreSQL for the whole session, and an environment that no test changes for another."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from resources.timescale.store import MarketStore
from tests.databases import timescale

# No test measures time; the first call of a compiled function takes a second. What chance finds is found by the soak: a
# change does not fail on an example that has nothing to do with it.
settings.register_profile("timeless", deadline=None, derandomize=not os.environ.get("SOAK"))
settings.load_profile("timeless")


def pytest_configure() -> None:
    """Let the processes that tests start share what they compile: our modules take a second."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Give the next test the environment that this one found: a command sets variables for the processes it starts."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the market database of a plain PostgreSQL."""
    path = tmp_path_factory.mktemp("postgres")
    home = Home(path)
    home.create("simulated", {})
    with running(home, load_settings(path, {}), ("postgres",)) as urls:
        yield urls.postgres


@pytest.fixture(scope="session")
def market(request: pytest.FixtureRequest) -> Iterator[MarketStore]:
    """A market database; tests keep apart by registering symbols of their own."""
    if os.environ.get("TRADING_TEST_BACKEND") == "timescale":
        with timescale() as dsn, MarketStore(dsn, "sim") as store:
            yield store
    else:
        with MarketStore(request.getfixturevalue("postgres"), "sim") as store:
            yield store
