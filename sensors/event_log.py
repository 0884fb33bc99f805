"""Dagster's event log in PostgreSQL for runs over ranges: few kept connections, planned events in batches.

A run over a range writes a planned event for each asset and partition. The stock storage opens a connection for each,
which takes over 300 s for 18 assets and 360 symbol-days; here they go in together, ahead of the next other event.
"""

from collections.abc import Sequence

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.sql import create_engine
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy import exc, pool

from sensors.storages import Storage

KEPT_CONNECTIONS = 2
BATCH = 1000


class PooledEventLogStorage(Storage, PostgresEventLogStorage):
    """The stock storage with a pooled engine and batched planned events; named in `dagster.yaml`."""

    def __init__(self, **options) -> None:
        self._planned: list[EventLogEntry] = []
        self._tables: set[str] = set()
        super().__init__(**options)
        self._engine = create_engine(
            self.postgres_url,
            isolation_level="AUTOCOMMIT",
            poolclass=pool.QueuePool,
            pool_size=KEPT_CONNECTIONS,
            max_overflow=8,
            pool_pre_ping=True,
        )

    def has_table(self, table_name: str) -> bool:
        """Return whether a table is there; what was there once stays there."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event; a planned one waits for those that follow it."""
        if event.dagster_event_type is DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            self._planned.append(event)
            if len(self._planned) >= BATCH:
                self._store_planned()
            return
        self._store_planned()
        super().store_event(event)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store a batch, after what was planned before it."""
        self._store_planned()
        super().store_event_batch(events)

    def initialize_concurrency_limit_to_default(self, concurrency_key: str) -> bool:
        """Make a pool of the default size; of two runs that meet a new pool at once the later one finds it made.

        The stock method goes on in the transaction that its refused INSERT has ended, and so the later run fails.
        """
        try:
            return super().initialize_concurrency_limit_to_default(concurrency_key)
        except exc.InternalError:
            return True

    def dispose(self) -> None:
        """Store what still waits and close the kept connections."""
        self._store_planned()
        super().dispose()
        self._engine.dispose()

    def _store_planned(self) -> None:
        events, self._planned = self._planned, []
        if not events:
            return
        insert = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self._connect() as connection:
            ids = [int(row[0]) for row in connection.execute(insert).fetchall()]
        newest = {event.dagster_event.asset_key: (event, number) for event, number in zip(events, ids, strict=True)}
        with self.index_transaction() as connection:
            self._store_asset_event_tags(connection, events, ids)
            for event, number in newest.values():
                self._store_asset_event(connection, event, number)
