"""The journal of a venue whose trade ids are identities: its trades, and what can be said of the time between them.

Trades and the stretches that speak of them are written together or not at all. A second keeps each id once, so a trade
that comes again after any crash is no second trade. Nothing here is ever complete (`trading.stream.identities`); nobody
else has these trades, so none are dropped. Files are `resources.rocksdb`'s.

| column family | key | value |
| --- | --- | --- |
| `trades` | `trades:{symbol}:{second_ms}` | the trades of one second, in the order in which they came |
| `ledger` | `instrument:{symbol}` | the steps of prices and quantities |
| `ledger` | `stretch:{symbol}:{from_ms}` | until when, and whether it is missing or unproven |
| `candles` | `candles:{symbol}:{open_ms}` | the venue's own candle of a minute, as it was said last |
| `contexts` | `contexts:{symbol}:{minute_ms}` | what was said last of a contract in a minute of our clock |
| `quarantine` | `quarantine:{time_ms}:{digest}` | reason, and the frame as it was |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from resources.journal_entries import FOREVER_MS, aside, framed, key_of, span_of, start_ms, unframed
from resources.rocksdb import Changes, Database, Durability, JournalDamaged, JournalFormat, family
from trading.market.derivatives import AssetContext
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, SECOND_MS
from trading.stream.events import Kline
from trading.stream.identities import REMEMBERED, State, Stretch, lacking
from trading.stream.identity_core import Seen

FORMAT: Final = "identity journal 1"

_Row = tuple[str, int, int, int, bool, bool]
"""An `IdentifiedTrade` by position."""


class _Context(msgspec.Struct, array_like=True):
    """A context, and the moment of our clock at which it was known."""

    known_at_ms: int
    context: AssetContext


def _families() -> dict[str, Any]:
    names = ("trades", "ledger", "candles", "contexts", "quarantine")
    return dict.fromkeys(names, family(zstd_level=9, block_bytes=64 * 2**10))


class IdentityJournal:
    """An open journal; see `write` and `read`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.directory = database.directory
        self._written: dict[str, dict[int, Stretch]] = {}

    @classmethod
    @contextmanager
    def write(
        cls, directory: Path, patience_s: float = 0.0, durability: Durability = "second"
    ) -> Iterator["IdentityJournal"]:
        """Open for writing; arguments and errors are those of `resources.journal.TradeJournal.write`."""
        with Database.write(directory, FORMAT, _families(), patience_s, durability) as database:
            yield cls(database)

    @classmethod
    @contextmanager
    def read(cls, directory: Path) -> Iterator["IdentityJournal"]:
        """Open the newest checkpoint; a living collector is asked for a new one, a dead one's journal is checkpointed."""
        with Database.read(directory, FORMAT, _families()) as database:
            yield cls(database)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of what it reads."""
        return self._db.warnings

    def checkpoint(self) -> Path:
        """Make a checkpoint of all that was written and return its folder."""
        return self._db.checkpoint()

    # -- writing -----------------------------------------------------------------------------------------------------

    def keep(self, instrument: Instrument) -> Instrument:
        """Return the instrument in whose steps a market is kept here: the first one that was given.

        Raises:
            JournalFormat: The market now has finer steps than those.
        """
        kept = self.instruments().get(instrument.name)
        if kept is None:
            changes = self._db.changes()
            _put(changes, "ledger", b"instrument:" + instrument.name.encode(), instrument)
            self._db.commit(changes)
            return instrument
        finer = instrument.price_decimals > kept.price_decimals or instrument.quantity_decimals > kept.quantity_decimals
        if finer or (instrument.venue, instrument.kind) != (kept.venue, kept.kind):
            raise JournalFormat(
                f"{self.directory} keeps {kept.venue} {kept.kind} {kept.name} with {kept.price_decimals} decimals of a "
                f"price and {kept.quantity_decimals} of a quantity, which is not what now trades",
                "keep the folder and give another --journal",
            )
        return kept

    def append(self, seen: Mapping[str, Seen], known_at_ms: int, bad: Iterable[tuple[int, str, bytes]] = ()) -> None:
        """Store what came and what can be said of the time up to then, all or nothing.

        Args:
            seen: By market.
            known_at_ms: Our clock.
            bad: Frames that were refused, as (time, reason, frame).

        Raises:
            JournalFull: The disk is filled up to the reserve.
            JournalFenced: Another writer took over.
            JournalFailed: RocksDB could not write; nothing is accepted until the journal is opened again.
        """
        self._db.require_room()
        changes = self._db.changes()
        ledgers = {symbol: {s.from_ms: s for s in news.stretches} for symbol, news in seen.items()}
        for symbol, news in seen.items():
            self._put_seconds(changes, symbol, news.trades)
            for open_ms, candle in news.candles.items():
                _put(changes, "candles", key_of("candles", symbol, open_ms), candle)
            if news.context is not None:
                key = key_of("contexts", symbol, known_at_ms // MINUTE_MS * MINUTE_MS)
                _put(changes, "contexts", key, _Context(known_at_ms, news.context))
            self._put_stretches(changes, symbol, ledgers[symbol])
        for entry in bad:
            changes.put("quarantine", *aside(*entry))
        self._db.commit(changes)
        self._written |= ledgers

    def set_aside_damaged(self, symbol: str) -> int:
        """Move batches that cannot be read into quarantine, name their seconds missing, and return their number."""
        self._db.require_room()
        changes, count, stretches = self._db.changes(), 0, self.stretches(symbol)
        for key, value in self._db.scan("trades", *span_of("trades", symbol, 0, FOREVER_MS)):
            try:
                unframed(key, value, list[_Row])
            except JournalDamaged as error:
                second_ms = start_ms(key)
                changes.put("quarantine", *aside(second_ms, error.message, value))
                changes.delete("trades", key)
                stretches = lacking(stretches, second_ms, second_ms + SECOND_MS)
                count += 1
        ledger = {one.from_ms: one for one in stretches}
        self._put_stretches(changes, symbol, ledger)
        self._db.commit(changes)
        self._written[symbol] = ledger
        return count

    def _put_seconds(self, changes: Changes, symbol: str, trades: Iterable[IdentifiedTrade]) -> None:
        """Add trades to the batches of their seconds; of two with one id the first stays."""
        seconds: dict[int, list[IdentifiedTrade]] = {}
        for trade in trades:
            seconds.setdefault(trade.time_ms // SECOND_MS * SECOND_MS, []).append(trade)
        for second_ms, arrived in seconds.items():
            key = key_of("trades", symbol, second_ms)
            stored = self._db.get("trades", key)
            held: list[_Row] = [] if stored is None else unframed(key, stored, list[_Row])
            rows = {row[0]: row for row in held}
            for trade in arrived:
                rows.setdefault(trade.trade_id, msgspec.structs.astuple(trade))
            _put(changes, "trades", key, list(rows.values()))

    def _put_stretches(self, changes: Changes, symbol: str, ledger: Mapping[int, Stretch]) -> None:
        """Write what is not as it was written before: mostly the end of the last stretch."""
        before = self._written.get(symbol)
        if before is None:
            before = {s.from_ms: s for s in self.stretches(symbol)}
        for from_ms in before.keys() - ledger.keys():
            changes.delete("ledger", key_of("stretch", symbol, from_ms))
        for from_ms, stretch in ledger.items():
            if before.get(from_ms) != stretch:
                _put(changes, "ledger", key_of("stretch", symbol, from_ms), (stretch.until_ms, stretch.state))

    # -- reading -----------------------------------------------------------------------------------------------------

    def instruments(self) -> dict[str, Instrument]:
        """Return the markets that are kept here, by symbol."""
        rows = self._db.scan("ledger", b"instrument:", b"instrument;")
        return {found.name: found for key, value in rows if (found := unframed(key, value, Instrument))}

    def stretches(self, symbol: str) -> list[Stretch]:
        """Return what can be said of the time from the first trade to the last one, in order and without a gap."""
        rows = self._scan("ledger", "stretch", symbol, 0, FOREVER_MS, tuple[int, State])
        return [Stretch(from_ms, *rest) for from_ms, rest in rows]

    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> list[IdentifiedTrade]:
        """Return the trades with time in `[lo_ms, hi_ms)`, by time; those of one millisecond as they came."""
        rows = self._scan("trades", "trades", symbol, lo_ms // SECOND_MS * SECOND_MS, hi_ms, list[_Row])
        found = [trade for _, batch in rows for trade in _trades(batch) if lo_ms <= trade.time_ms < hi_ms]
        return sorted(found, key=lambda trade: trade.time_ms)

    def newest(self, symbol: str, count: int = REMEMBERED) -> list[IdentifiedTrade]:
        """Return the newest trades, by time: as many, and the rest of the second of the oldest of them."""
        found: list[IdentifiedTrade] = []
        for _, batch in self._scan("trades", "trades", symbol, 0, FOREVER_MS, list[_Row], backwards=True):
            found += _trades(batch)
            if len(found) >= count:
                break
        return sorted(found, key=lambda trade: trade.time_ms)

    def candles(self, symbol: str, lo_ms: int, hi_ms: int) -> list[Kline]:
        """Return the venue's candles that open in `[lo_ms, hi_ms)`, in order."""
        return [candle for _, candle in self._scan("candles", "candles", symbol, lo_ms, hi_ms, Kline)]

    def contexts(self, symbol: str, lo_ms: int, hi_ms: int) -> list[tuple[int, AssetContext]]:
        """Return what was said last of a contract in each minute of `[lo_ms, hi_ms)`, and when that was known."""
        rows = self._scan("contexts", "contexts", symbol, lo_ms, hi_ms, _Context)
        return [(found.known_at_ms, found.context) for _, found in rows]

    def quarantined(self) -> list[tuple[str, bytes]]:
        """Return what was kept aside, as (reason, frame)."""
        rows = self._db.scan("quarantine", b"quarantine:", b"quarantine;")
        return [msgspec.msgpack.decode(value, type=tuple[str, bytes]) for _, value in rows]

    def _scan(
        self, family: str, name: str, symbol: str, lo_ms: int, hi_ms: int, kind: Any, backwards: bool = False
    ) -> Iterator[tuple[int, Any]]:
        for key, value in self._db.scan(family, *span_of(name, symbol, lo_ms, hi_ms), backwards=backwards):
            yield start_ms(key), unframed(key, value, kind)


def _trades(rows: Sequence[_Row]) -> list[IdentifiedTrade]:
    return [IdentifiedTrade(*row) for row in rows]


def _put(changes: Changes, family: str, key: bytes, value: object) -> None:
    changes.put(family, key, framed(key, value))
