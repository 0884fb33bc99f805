"""Dagster's storages in PostgreSQL, whose tables any number of processes may find missing at once.

The stock storages make their tables where they are missing, and fail where another process is making them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from sqlalchemy import create_engine, pool, text


@contextmanager
def making_tables(postgres_url: str) -> Iterator[None]:
    """Wait until no other process makes Dagster's tables in this database, and let none begin meanwhile."""
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext('dagster tables'))"))
        yield


class Storage:
    """What each of the storages has before its stock class; named in `dagster.yaml`."""

    def __init__(self, *, postgres_url: str, **options) -> None:
        with making_tables(postgres_url):
            super().__init__(postgres_url=postgres_url, **options)

    @classmethod
    def from_config_value(cls, inst_data, config_value):
        """Build from `dagster.yaml`; the stock method names the stock class."""
        return cls(inst_data=inst_data, **config_value)


class RunStorage(Storage, PostgresRunStorage):
    """Runs."""


class ScheduleStorage(Storage, PostgresScheduleStorage):
    """Schedules and sensors."""
