"""What many tests share: one PostgreSQL for the whole session, and an environment that no test changes for another."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from resources.timescale.store import MarketStore

# No test measures time; the first call of a compiled function takes a second.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Give the next test the environment that this one found: a command sets variables for the processes it starts."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketStore]:
    """A market database; tests keep apart by registering symbols of their own."""
    path = tmp_path_factory.mktemp("postgres")
    home = Home(path)
    home.create("simulated", {})
    with running(home, load_settings(path, {}), ("postgres",)) as urls, MarketStore(urls.postgres, "sim") as store:
        yield store
