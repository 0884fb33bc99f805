"""The trade journal: what came off the wire, one batch a symbol and second, with the ledger of ids it proves.

Batches and the ledger that claims their ids are written together or not at all, so what the ledger claims is there after
any crash. A closed hour can be sealed into one value; readers see no difference. Bytes are `trading.stream.batch`'s,
files `resources.rocksdb`'s.

| column family | key | value |
| --- | --- | --- |
| `trades` | `trades:{symbol}:{second_ms}` | a batch of one second |
| `sealed` | `sealed:{symbol}:{hour_ms}` | a batch of one hour |
| `ledger` | `ledger:{symbol}`, `retired:{symbol}` | ranges of ids; what is kept no longer |
| `ledger` | `fill:{symbol}:{first_id}` | ids that came over REST |
| `quarantine` | `quarantine:{time_ms}:{digest}` | reason, and the frame or batch as it was |
| `books` | `books:{symbol}:{second_ms}` | the best levels of a book at the end of a second |
| `marks` | `marks:{symbol}:{time_ms}` | mark and index price of a contract, with the funding announced |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from resources.journal_entries import (
    FOREVER_MS,
    Entry,
    Table,
    aside,
    columns_of,
    framed,
    key_of,
    naming_damage,
    pieces,
    span_of,
    start_ms,
    starts,
    table_of,
    unframed,
)
from resources.rocksdb import Changes, Database, Durability, JournalDamaged, family
from trading.market.timeframe import DAY_MS, HOUR_MS, SECOND_MS
from trading.market.trade import TRADE_SCHEMA, AggTrade
from trading.stream.batch import decode, decode_columns, encode, encode_columns
from trading.stream.book_recorder import BookRecord, Content, content, record_of
from trading.stream.contiguity import IdRange, missing_ids, trimmed
from trading.stream.events import MarkPrice
from trading.stream.repair import Fill

FORMAT: Final = "trade journal 3"
READ_TOO: Final = ("trade journal 2",)
"""Formats before, which become the present one when they are opened for writing: their batches are not bound to a key."""

SETTLED_MS: Final = DAY_MS
"""An hour that nobody proves complete is sealed when it is that old; what is missing then rarely comes."""

ID, TIME = (list(TRADE_SCHEMA).index(name) for name in ("agg_trade_id", "time_ms"))


class _Retired(msgspec.Struct, array_like=True):
    """What `TradeJournal.retire` has dropped: ids before `first_id`, moments before `since_ms`."""

    first_id: int = 0
    since_ms: int = 0


def _families() -> dict[str, Any]:
    # A second's batch is about a hundred bytes and read in ranges, so large blocks compress better and cost no reading.
    return dict.fromkeys(
        ("trades", "sealed", "ledger", "quarantine", "books", "marks"), family(zstd_level=9, block_bytes=64 * 2**10)
    )


class TradeJournal:
    """An open journal; see `write` and `read`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.directory = database.directory

    @classmethod
    @contextmanager
    def write(
        cls, directory: Path, patience_s: float = 0.0, durability: Durability = "second"
    ) -> Iterator["TradeJournal"]:
        """Open for writing.

        Args:
            directory: The journal's folder; made where it is absent.
            patience_s: How long to wait for another process; a reader holds a dead collector's journal for moments.
            durability: What returned from `append` survives the death of the process in any case. `second`: the loss
                of power takes at most what was appended since the last sync that ended began; `fsync`: nothing.

        Raises:
            JournalHeld: Another process has it open.
            JournalFormat: The folder holds something else.
            JournalFailed: RocksDB cannot open it.
        """
        _compile()
        with Database.write(directory, FORMAT, _families(), patience_s, durability, older=READ_TOO) as database:
            yield cls(database)

    @classmethod
    @contextmanager
    def read(cls, directory: Path) -> Iterator["TradeJournal"]:
        """Open the newest checkpoint; a living collector is asked for a new one, a dead one's journal is checkpointed."""
        with Database.read(directory, FORMAT, _families(), READ_TOO) as database:
            yield cls(database)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of what it reads."""
        return self._db.warnings

    def checkpoint(self) -> Path:
        """Make a checkpoint of all that was written and return its folder."""
        return self._db.checkpoint()

    def sync(self) -> None:
        """Sync what was appended."""
        self._db.sync()

    def compact(self) -> None:
        """Rewrite the tables now, as RocksDB does by and by; gives back the space of what was deleted."""
        self._db.compact()

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(
        self,
        trades: Mapping[str, Iterable[AggTrade]],
        ledgers: Mapping[str, Iterable[IdRange]],
        fills: Mapping[str, Iterable[Fill]] | None = None,
    ) -> int:
        """Store trades, with their ledgers and which of them came over REST, all or nothing; return the new batches.

        A second that has a batch already keeps its trades; the first trade of an id stays.

        Raises:
            JournalFull: The disk is filled up to the reserve.
            JournalFenced: Another writer took over.
            JournalFailed: RocksDB could not write; nothing is accepted until the journal is opened again.
        """
        self._db.require_room()
        changes, created = self._db.changes(), 0
        for symbol, arrived in trades.items():
            created += self._put_seconds(changes, symbol, table_of(arrived))
        for symbol, ranges in ledgers.items():
            _put(changes, "ledger", b"ledger:" + symbol.encode(), list(ranges))
        for symbol, filled in (fills or {}).items():
            for fill in filled:
                _put(changes, "ledger", _fill_key(symbol, fill.first_id), fill)
        self._db.commit(changes)
        return created

    def append_books(self, records: Mapping[str, Iterable[BookRecord]]) -> None:
        """Store order books by the second at whose end they stood; raises like `append`."""
        self._append("books", {s: [(r.second_ms, content(r)) for r in arrived] for s, arrived in records.items()})

    def append_marks(self, marks: Mapping[str, Iterable[MarkPrice]]) -> None:
        """Store mark prices by their moments; one that comes again is the same; raises like `append`."""
        self._append("marks", {s: [(mark.time_ms, mark) for mark in arrived] for s, arrived in marks.items()})

    def _append(self, name: str, values: Mapping[str, Iterable[tuple[int, object]]]) -> None:
        self._db.require_room()
        changes = self._db.changes()
        for symbol, arrived in values.items():
            for at_ms, value in arrived:
                _put(changes, name, key_of(name, symbol, at_ms), value)
        self._db.commit(changes)

    def quarantine(self, time_ms: int, reason: str, content: bytes) -> None:
        """Keep a bad frame or batch as it came; `time_ms` orders it."""
        self._db.require_room()
        changes = self._db.changes()
        changes.put("quarantine", *aside(time_ms, reason, content))
        self._db.commit(changes)

    def quarantined(self) -> list[tuple[int, str, bytes]]:
        """Return what was kept aside, as (time, reason, content)."""
        rows = self._db.scan("quarantine", b"quarantine:", b"quarantine;")
        return [
            (int(key.split(b":")[1]), *msgspec.msgpack.decode(value, type=tuple[str, bytes])) for key, value in rows
        ]

    def set_aside_damaged(self, symbol: str) -> int:
        """Move batches that cannot be read into quarantine, and return their number; `verify` then names their ids."""
        self._db.require_room()
        changes, count = self._db.changes(), 0
        for name in _TRADES:
            for key, value in self._db.scan(name, *span_of(name, symbol, 0, FOREVER_MS)):
                try:
                    columns_of([(key, value)])
                except JournalDamaged as error:
                    changes.put("quarantine", *aside(start_ms(key), error.message, value))
                    changes.delete(name, key)
                    count += 1
        self._db.commit(changes)
        return count

    def seal(self, symbol: str, hour_ms: int) -> int:
        """Put the batches of one closed hour into one value; return how many there were.

        A trade that comes later for this hour gets a batch of its second, which reading and the next sealing merge.
        """
        _require_hour(hour_ms)
        batches, hours = span_of("trades", symbol, hour_ms, hour_ms + HOUR_MS), key_of("sealed", symbol, hour_ms)
        hot, sealed = list(self._db.scan("trades", *batches)), self._db.get("sealed", hours)
        if not hot:
            return 0
        trades = self._frame([(hours, sealed), *hot] if sealed is not None else hot)
        (value,) = encode(trades, np.array([0, len(trades)]), np.array([hour_ms]), [hours])
        changes = self._db.changes()
        changes.delete_range("trades", *batches)
        changes.put("sealed", hours, value)
        self._db.commit(changes)
        return len(hot)

    def retire(self, symbol: str, before_ms: int) -> None:
        """Drop the trades of all hours that end by `before_ms`, and the claims on them; its cost is not theirs.

        Trades whose time runs back over that edge by more than a batch are taken for lost afterwards, and repaired.
        """
        edge_ms = before_ms // HOUR_MS * HOUR_MS
        # A market may not trade for weeks; its books and mark prices come all the same.
        spans = {name: span_of(name, symbol, 0, edge_ms) for name in (*_TRADES, "books", "marks")}
        if not any(next(self._db.scan(name, *span), None) for name, span in spans.items()):
            return
        known, last = self._retired(symbol), self._last_before(symbol, edge_ms)
        first_id = max(known.first_id, last[0] + 1 if last else 0)
        changes = self._db.changes()
        for name, span in spans.items():
            changes.delete_range(name, *span)
        self._retire_fills(changes, symbol, first_id)
        now = _Retired(first_id, max(known.since_ms, edge_ms))
        _put(changes, "ledger", b"retired:" + symbol.encode(), now)
        self._db.commit(changes)

    def maintain(self, symbol: str, now_ms: int, retention_ms: int, verified_until_ms: int) -> int:
        """Seal the oldest hour that is ready and drop what is old; return how many hours were sealed, one at most.

        An hour is ready when the ledger proves it whole, or is `SETTLED_MS` in the past. One call costs one hour's sealing,
        so the writer's thread can make it between two batches: once an hour keeps up, more often catches up.

        Args:
            symbol: Whose trades.
            now_ms: The exchange's clock.
            retention_ms: How long trades are kept.
            verified_until_ms: Trades from here on are kept whatever their age, as nobody else is known to have them.
        """
        self.retire(symbol, min(now_ms - retention_ms, verified_until_ms))
        proven = [(r.proven_from_ms, r.proven_until_ms) for r in self.ledger(symbol)]
        for hour_ms in self._unsealed_hours(symbol):
            end_ms = hour_ms + HOUR_MS
            if end_ms <= now_ms - SETTLED_MS or any(lo <= hour_ms and end_ms <= hi for lo, hi in proven):
                self.seal(symbol, hour_ms)
                return 1
        return 0

    def delete_batch(self, symbol: str, second_ms: int) -> None:
        """Delete one second's batch; the ledger goes on claiming its ids, so that the loss is found and repaired."""
        changes = self._db.changes()
        changes.delete("trades", key_of("trades", symbol, second_ms))
        self._db.commit(changes)

    def delete_hour(self, symbol: str, hour_ms: int) -> None:
        """Delete one hour's batches, sealed and not; like `delete_batch`."""
        _require_hour(hour_ms)
        changes = self._db.changes()
        for name in ("trades", "sealed"):
            changes.delete_range(name, *span_of(name, symbol, hour_ms, hour_ms + HOUR_MS))
        self._db.commit(changes)

    def _retire_fills(self, changes: Changes, symbol: str, first_id: int) -> None:
        """Drop what is noted of ids before one; a fill that reaches further keeps the rest."""
        span = _fill_key(symbol, 0), _fill_key(symbol, first_id)
        last = next(self._db.scan("ledger", *span, backwards=True), None)
        if last is None:
            return
        fill: Fill = unframed(*last, Fill)
        changes.delete_range("ledger", *span)
        if fill.last_id >= first_id:
            fill.first_id = first_id
            _put(changes, "ledger", _fill_key(symbol, first_id), fill)

    def _put_seconds(self, changes: Changes, symbol: str, table: Table) -> int:
        """Merge trades into the batches of their seconds, and return how many of these are new."""
        seconds_ms = np.array(sorted(set((table[TIME] // SECOND_MS * SECOND_MS).tolist())), np.int64)
        keys = [key_of("trades", symbol, start) for start in seconds_ms.tolist()]
        stored = [(key, value) for key in keys if (value := self._db.get("trades", key)) is not None]
        if stored:
            table = np.concatenate((np.array(columns_of(stored), np.int64), table), axis=1)
        seconds = table[TIME] // SECOND_MS
        table = table[:, np.lexsort((table[ID], seconds))]
        seconds = table[TIME] // SECOND_MS
        first = np.ones(len(seconds), bool)
        first[1:] = (seconds[1:] != seconds[:-1]) | (table[ID, 1:] != table[ID, :-1])
        table, seconds = table[:, first], seconds[first]
        edges = np.append(np.searchsorted(seconds, seconds_ms // SECOND_MS), len(seconds))
        for key, value in zip(keys, encode_columns(list(table), edges, seconds_ms, keys), strict=True):
            changes.put("trades", key, value)
        return len(keys) - len(stored)

    # -- reading -----------------------------------------------------------------------------------------------------

    def ledger(self, symbol: str) -> list[IdRange]:
        """Return the ranges of ids that are claimed for a symbol, without those that were retired."""
        retired = self._retired(symbol)
        return trimmed(
            self._framed(b"ledger:" + symbol.encode(), list[IdRange]) or [], retired.first_id, retired.since_ms
        )

    def kept_since_ms(self, symbol: str) -> int:
        """Return the exchange time before which trades were dropped by `retire`; 0: nothing was."""
        return self._retired(symbol).since_ms

    def fills(self, symbol: str) -> list[Fill]:
        """Return which ids came over REST, in order."""
        span = _fill_key(symbol, 0), f"fill:{symbol};".encode()
        return [unframed(key, value, Fill) for key, value in self._db.scan("ledger", *span)]

    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the trades with time in `[lo_ms, hi_ms)` as `TRADE_SCHEMA`, ordered by id."""
        trades = self._frame(list(self._entries(symbol, lo_ms, hi_ms)))
        return trades.filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def beside(self, symbol: str, lo_ms: int, hi_ms: int) -> list[tuple[int, int]]:
        """Return id and time of the last trade before `[lo_ms, hi_ms)` and of the first after it; both whole hours."""
        entries = [next(self._db.scan(name, *span_of(name, symbol, hi_ms, FOREVER_MS)), None) for name in _TRADES]
        after = self._frame([entry for entry in entries if entry is not None])
        found = [
            self._last_before(symbol, lo_ms),
            (after["agg_trade_id"][0], after["time_ms"][0]) if len(after) else None,
        ]
        return [trade for trade in found if trade is not None]

    def books(self, symbol: str, lo_ms: int, hi_ms: int) -> list[BookRecord]:
        """Return the order books of the seconds that begin in `[lo_ms, hi_ms)`, in order."""
        return [_book(key, value) for key, value in self._db.scan("books", *span_of("books", symbol, lo_ms, hi_ms))]

    def book_before(self, symbol: str, end_ms: int) -> BookRecord | None:
        """Return the order book of the last second that began before a moment."""
        found = next(self._db.scan("books", *span_of("books", symbol, 0, end_ms), backwards=True), None)
        return None if found is None else _book(*found)

    def marks(self, symbol: str, lo_ms: int, hi_ms: int) -> list[MarkPrice]:
        """Return the mark prices of the moments in `[lo_ms, hi_ms)`, in order."""
        rows = self._db.scan("marks", *span_of("marks", symbol, lo_ms, hi_ms))
        return [unframed(key, value, MarkPrice) for key, value in rows]

    def seconds(self, symbol: str) -> list[int]:
        """Return the seconds (ms) that have a batch of their own; those of sealed hours have none."""
        return [start_ms(key) for key, _ in self._db.scan("trades", *span_of("trades", symbol, 0, FOREVER_MS))]

    def verify(self, symbol: str) -> list[tuple[int, int]]:
        """Return the ids that the ledger claims and no batch holds, as (first, last)."""
        ids = [columns_of(piece)[ID] for piece in pieces(self._entries(symbol, 0, FOREVER_MS))]
        return missing_ids(self.ledger(symbol), np.unique(np.concatenate(ids)) if ids else [])

    def _unsealed_hours(self, symbol: str) -> Iterator[int]:
        """Yield the hours in which seconds have batches of their own, by one seek an hour."""
        hour_ms = 0
        while first := next(self._db.scan("trades", *span_of("trades", symbol, hour_ms, FOREVER_MS)), None):
            hour_ms = start_ms(first[0]) // HOUR_MS * HOUR_MS
            yield hour_ms
            hour_ms += HOUR_MS

    def _last_before(self, symbol: str, edge_ms: int) -> tuple[int, int] | None:
        """Return id and time of the last trade before a whole hour."""
        entries = [
            next(self._db.scan(name, *span_of(name, symbol, 0, edge_ms), backwards=True), None) for name in _TRADES
        ]
        before = self._frame([entry for entry in entries if entry is not None])
        return (before["agg_trade_id"][-1], before["time_ms"][-1]) if len(before) else None

    def _entries(self, symbol: str, lo_ms: int, hi_ms: int) -> Iterator[Entry]:
        """Yield what may hold trades of `[lo_ms, hi_ms)`; sealed hours first, as their trades came first."""
        yield from self._db.scan("sealed", *span_of("sealed", symbol, lo_ms // HOUR_MS * HOUR_MS, hi_ms))
        yield from self._db.scan("trades", *span_of("trades", symbol, lo_ms // SECOND_MS * SECOND_MS, hi_ms))

    def _frame(self, entries: Sequence[Entry]) -> pl.DataFrame:
        """Return the trades of entries by id; of two with one id, the first."""
        with naming_damage(entries):
            trades = decode([value for _, value in entries], starts(entries), [key for key, _ in entries])
        if (np.diff(trades["agg_trade_id"].to_numpy()) > 0).all():
            return trades
        return trades.unique("agg_trade_id", keep="first", maintain_order=True).sort("agg_trade_id")

    def _retired(self, symbol: str) -> _Retired:
        return self._framed(b"retired:" + symbol.encode(), _Retired) or _Retired()

    def _framed(self, key: bytes, kind: Any) -> Any:
        value = self._db.get("ledger", key)
        return None if value is None else unframed(key, value, kind)


_TRADES: Final = ("sealed", "trades")


@cache
def _compile() -> None:
    """Have the codec compiled before anything waits for it: the first time after an installation it takes seconds."""
    start, trade = np.array([0]), table_of([AggTrade(0, 0, 0, 0, 0, 0, buyer_is_maker=False)])
    decode_columns(encode_columns(list(trade), np.array([0, 1]), start, [b""]), start, [b""])


def _put(changes: Changes, family: str, key: bytes, value: object) -> None:
    changes.put(family, key, framed(key, value))


def _fill_key(symbol: str, first_id: int) -> bytes:
    return f"fill:{symbol}:{first_id:020d}".encode()


def _book(key: bytes, value: bytes) -> BookRecord:
    return record_of(unframed(key, value, Content))


def _require_hour(hour_ms: int) -> None:
    if hour_ms % HOUR_MS:
        raise ValueError(f"{hour_ms} is not the start of an hour")
