"""What many tests share: one PostgreSQL for the whole session."""

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


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketStore]:
    """A market database; tests keep apart by registering symbols of their own."""
    path = tmp_path_factory.mktemp("postgres")
    home = Home(path)
    home.create("simulated", {})
    with running(home, load_settings(path, {}), ("postgres",)) as urls, MarketStore(urls.postgres, "sim") as store:
        yield store
