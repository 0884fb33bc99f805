"""Dagster as a home has it: its instance in the home's own PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pytest

from resources.dagster_home import dagster_environment
from resources.home import Home
from resources.servers import running
from resources.settings import load_settings


class OfHome(NamedTuple):
    """An instance, the home that it is of, and the URL of its database."""

    instance: dg.DagsterInstance
    home: Home
    url: str


@pytest.fixture
def of_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OfHome]:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    with running(home, load_settings(home.path, {}), ("postgres",)) as urls:
        for name, value in dagster_environment(home, urls.dagster).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            yield OfHome(instance, home, urls.dagster)
