"""Dagster's view of the stores: each resource lends one plain object of the home for the length of a run.

The plain classes are what scripts and tests use; nothing here adds behaviour.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from resources.stores import Stores


class _HomeResource(dg.ConfigurableResource):
    home: str = Field(
        default_factory=lambda: os.environ.get("TRADING_HOME", ".trading"),
        description="Folder of the home whose stores are used (TRADING_HOME).",
    )
    _stores: Any = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Any, None, None]:
        """Lease the home's stores until the run ends."""
        from resources.stores import open_stores

        with open_stores(Path(self.home)) as stores:
            self._stores = stores
            yield self

    @property
    def stores(self) -> "Stores":
        """The stores of the home."""
        return self._stores


class MarketDatabase(_HomeResource):
    """PostgreSQL or TimescaleDB: the truth for all that is asked."""

    @property
    def store(self) -> Any:
        """The `MarketStore`."""
        return self.stores.market


class TradeJournalReader(_HomeResource):
    """RocksDB: the raw one-second trade batches, read from a checkpoint."""

    @contextmanager
    def read(self) -> Generator[Any, None, None]:
        """Yield a read-only `TradeJournal`."""
        from resources.journal import TradeJournal

        with TradeJournal.read(self.stores.home.rocksdb_dir) as journal:
            yield journal

    def marks(self, symbol: str, lo_ms: int, hi_ms: int) -> tuple[list[Any], list[str]]:
        """Return the `MarkPrice`s of a contract in `[lo_ms, hi_ms)`, and what a reader is to know of the journal.

        There are none where contracts were never collected.

        Raises:
            TradingError: The contracts' journal cannot be read.
        """
        from resources.journal import TradeJournal

        directory = self.stores.home.journal_dir("usdm")
        if not directory.exists():
            return [], []
        with TradeJournal.read(directory) as journal:
            return journal.marks(symbol, lo_ms, hi_ms), journal.warnings


class LmdbProjection(_HomeResource):
    """LMDB: candles and indicators for readers outside."""

    @property
    def store(self) -> Any:
        """The `LmdbStore`."""
        return self.stores.lmdb


class StateIndex(_HomeResource):
    """Qdrant: market states to search."""

    @property
    def store(self) -> Any:
        """The `SnapshotIndex`."""
        return self.stores.index


class HotCache(_HomeResource):
    """Redis: hot values, rebuilt from the database at any time."""

    @property
    def store(self) -> Any:
        """The `HotValues`."""
        return self.stores.hot


class ExchangeClient(_HomeResource):
    """The exchange's REST interface."""

    @property
    def client(self) -> Any:
        """The `Exchange`."""
        return self.stores.exchange

    @property
    def futures(self) -> Any:
        """The `FuturesExchange`."""
        return self.stores.futures
