"""A RocksDB directory with one writer: locked, fenced, checkpointed, its failures typed.

One process writes `live/`; it alone makes `checkpoints/`, and readers open the newest of these. A reader never opens
`live/`: even a read-only open would rewrite a file in it. rocksdict runs in raw mode only, since its default mode
unpickles what it reads. What keys and values mean is not known here (`resources.journal`).
"""

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeVar

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Checkpoint,
    CompactOptions,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

from resources import checkpoints
from resources.disk_reserve import DiskReserve
from resources.manifest import damage_in
from resources.writer_lock import JournalHeld, WriterLock
from trading.errors import TradingError

LONGEST_SOCKET_PATH: Final = 100
PATIENCE_S: Final = 5.0
"""How long a collector waits for a reader that is making a checkpoint in its place, and a reader for a starting one."""

SYNC_S: Final = 1.0
MANIFEST_BYTES: Final = 256 * 2**10
"""At which size RocksDB begins another one, so that looking through it before an opening takes no time."""

OPEN_FILES: Final = 128
"""That RocksDB keeps open: each start of a collector leaves a small one, and a process may often have only 1,024."""

LOG_BYTES: Final = 2**20
"""At which size RocksDB begins another log of its own doings, of which it keeps two: it writes some 4 MB a day."""

WRITE_BUFFER_BYTES: Final = 32 * 2**20

Durability = Literal["second", "fsync"]
Families = Mapping[str, Options]
Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class JournalFailed(TradingError):
    """RocksDB could not do what it was asked to; nothing of it counts as stored."""


class JournalDamaged(TradingError):
    """What the journal holds is not what was written."""


class JournalFormat(TradingError):
    """The directory holds no journal of this format."""


def family(zstd_level: int, block_bytes: int) -> Options:
    """Return the options of a column family."""
    options = _options()
    options.set_compression_type(DBCompressionType.zstd())
    options.set_compression_options(-14, zstd_level, 0, 0)
    blocks = BlockBasedOptions()
    blocks.set_block_size(block_bytes)
    options.set_block_based_table_factory(blocks)
    return options


def control_socket(directory: Path) -> Path:
    """Return the path of the writer's control socket: inside the journal, unless that is too long for a unix socket."""
    inside = directory.resolve() / "control.sock"
    if len(bytes(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    name = hashlib.sha256(bytes(inside)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"trading-journal-{name}.sock"


class Changes:
    """Changes of any column families that are made together or not at all; see `Database.commit`."""

    def __init__(self, handles: Mapping[str, object]) -> None:
        self.batch = WriteBatch(raw_mode=True)
        self._handles = handles

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Set a value."""
        self.batch.put(key, value, self._handles[family])

    def delete(self, family: str, key: bytes) -> None:
        """Delete a key."""
        self.batch.delete(key, self._handles[family])

    def delete_range(self, family: str, first: bytes, end: bytes) -> None:
        """Delete the keys in `[first, end)`, however many, by one entry."""
        self.batch.delete_range(first, end, self._handles[family])


class Database:
    """An open directory; see `write` and `read`."""

    def __init__(
        self,
        directory: Path,
        folder: Path,
        families: Families,
        access: AccessType,
        lock: WriterLock | None = None,
        durability: Durability = "second",
        clock: Callable[[], float] = time.monotonic,
        stale_s: float | None = None,
    ) -> None:
        self.directory, self.stale_s = directory, stale_s
        self._lock, self._durability, self._clock = lock, durability, clock
        self._failure: JournalFailed | None = None
        self._synced, self._reserve = -float("inf"), DiskReserve(directory, clock)
        self._syncer, self._syncing = ThreadPoolExecutor(1, "journal-sync"), _nothing()
        self._db = _opened(directory, folder, families, access)
        self._families = {name: self._db.get_column_family(name) for name in families}
        self._handles = {name: self._db.get_column_family_handle(name) for name in families}

    # -- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def write(
        cls,
        directory: Path,
        name: str,
        families: Families,
        patience_s: float = 0.0,
        durability: Durability = "second",
        clock: Callable[[], float] = time.monotonic,
        older: Sequence[str] = (),
    ) -> Iterator["Database"]:
        """Open for writing; the folder is made where it is absent.

        Args:
            directory: Holds `live/`, `checkpoints/` and the writer's lock.
            name: Of the format of what is kept there; a directory of another format is refused.
            families: Options by name of column family.
            patience_s: How long to wait for another process; a reader holds a dead writer's directory for moments.
            durability: Every write is in the operating system's hands when it returns and so survives the death of
                the process. `second`: each second a sync begins beside the writes, and they wait for one that has
                not ended by then. So the loss of power takes at most what was written since the last sync that
                ended began: what two seconds wrote. `fsync`: each write syncs, and the loss of power takes nothing.
            clock: Monotonic seconds.
            older: Names of formats that are understood too; a directory of one becomes one of `name`, and software
                that does not know this name refuses it from then on.

        Raises:
            JournalHeld: Another process has it open.
            JournalFormat: It holds something else.
            JournalDamaged: Its files are not what was written.
            JournalFailed: RocksDB cannot open it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with WriterLock.held(directory / "writer.lock", patience_s) as lock:
            if _format_of(directory, name, older) != name:
                checkpoints.publish(directory / "FORMAT", name)
            opened = cls(directory, directory / "live", families, AccessType.read_write(), lock, durability, clock)
            try:
                yield opened
            finally:
                try:
                    opened.sync()
                finally:
                    opened.close()

    @classmethod
    @contextmanager
    def read(cls, directory: Path, name: str, families: Families, older: Sequence[str] = ()) -> Iterator["Database"]:
        """Open the newest checkpoint; a living writer is asked for a new one, a dead one's directory is checkpointed.

        One that lives and does not answer leaves its last checkpoint, whose age is `stale_s` then; else that is None.

        Raises:
            JournalFormat: It holds something else.
            JournalHeld: A writer that makes no checkpoints has it, and there is none yet.
            JournalDamaged: Its files are not what was written.
            JournalFailed: RocksDB cannot open it.
        """
        _format_of(directory, name, older)
        checkpoint, stale_s = _newest_checkpoint(directory, name, families, older)
        try:
            opened = cls(directory, checkpoint, families, AccessType.read_only(), stale_s=stale_s)
        except (JournalDamaged, JournalFailed):
            if checkpoint == checkpoints.current(directory):
                raise
            # Other readers asked for two newer ones meanwhile, so this one is gone.
            checkpoint, stale_s = _newest_checkpoint(directory, name, families, older)
            opened = cls(directory, checkpoint, families, AccessType.read_only(), stale_s=stale_s)
        try:
            yield opened
        finally:
            opened.close()

    @property
    def warnings(self) -> list[str]:
        """What a reader must know: that what it reads is old, as the writer lives and does not answer."""
        if self.stale_s is None:
            return []
        return [
            f"the collector holds the journal and does not answer: what is read is {self.stale_s:.0f} s old, its last "
            "checkpoint; see 'trading status'"
        ]

    def close(self) -> None:
        """Let go of the files; RocksDB keeps them for as long as any handle lives.

        Raises:
            JournalFailed: Closing failed; after an earlier failure that is no news.
        """
        failed = self._failure
        self._syncer.shutdown()
        self._handles.clear()
        for opened in (*self._families.values(), self._db):
            with suppress(JournalFailed):
                self._asked("closed", opened.close)
        if self._failure is not failed:
            raise self._failure

    # -- writing -----------------------------------------------------------------------------------------------------

    def changes(self) -> Changes:
        """Return an empty set of changes."""
        return Changes(self._handles)

    def require_room(self) -> None:
        """Raise `JournalFull` when the disk is filled up to the reserve."""
        self._reserve.require()

    def commit(self, changes: Changes) -> None:
        """Make changes, all or nothing; see `write` for what they survive.

        Raises:
            JournalFenced: Another writer took over.
            JournalFailed: RocksDB refused, now or before; what it says is not stored, and neither is anything later.
        """
        self._require_writer()
        self._asked("written", lambda: self._db.write(changes.batch))
        if self._durability == "fsync":
            self.sync()
        elif self._clock() - self._synced >= SYNC_S:
            self._syncing.result()
            self._synced = self._clock()
            # On a thread, as a write takes microseconds and a sync many milliseconds, and RocksDB lets both go on.
            self._syncing = self._syncer.submit(self._sync)

    def sync(self) -> None:
        """Sync what was written; raises `JournalFailed`."""
        self._syncing.result()
        if self._failure is None:
            self._sync()

    def _sync(self) -> None:
        self._asked("synced", lambda: self._db.flush_wal(True))

    def checkpoint(self) -> Path:
        """Make a checkpoint of all that was written, point `CURRENT` to it, and return its folder."""
        self._require_writer()
        self.sync()
        return checkpoints.replace(
            self.directory,
            lambda made: self._asked("checkpointed", lambda: Checkpoint(self._db).create_checkpoint(str(made))),
        )

    def compact(self) -> None:
        """Rewrite all tables now, as RocksDB does by and by; gives back the space of what was deleted."""
        everything = CompactOptions()
        everything.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        for opened in self._families.values():
            self._asked("compacted", opened.flush)
            self._asked("compacted", lambda opened=opened: opened.compact_range(None, None, everything))

    def _require_writer(self) -> None:
        if self._lock is None:
            raise JournalFailed(f"the journal {self.directory} is open read-only", "only the collector writes it")
        if self._failure is not None:
            raise self._failure
        self._lock.require()

    def _asked(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Call RocksDB; once it has refused, this writer writes no more, as nobody knows what is on disk."""
        try:
            return call()
        except Exception as error:  # rocksdict raises bare exceptions
            self._failure = self._failure or JournalFailed(
                f"the journal {self.directory} cannot be {what}: {error}",
                "mend the disk and start the collector again; what was acknowledged is kept, the rest is repaired",
            )
            raise self._failure from None

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, family: str, key: bytes) -> bytes | None:
        """Return a value, or None; raises `JournalDamaged`."""
        try:
            return self._families[family].get(key)
        except Exception as error:
            raise _damaged(self.directory, error) from None

    def scan(self, family: str, first: bytes, end: bytes, backwards: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries with keys in `[first, end)`; see the function `scan`."""
        return scan(self._families[family], self.directory, first, end, backwards)


def scan(
    opened: Rdict, directory: Path, first: bytes, end: bytes, backwards: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries with keys in `[first, end)` in order; all iteration goes through here.

    Raises:
        JournalDamaged: A block is damaged, which RocksDB's iteration takes for the end unless its status is asked.
    """
    options = ReadOptions()
    options.set_iterate_upper_bound(end)  # rocksdict 0.3.29 takes a lower bound for an upper one
    entry = opened.iter(options)
    move = entry.prev if backwards else entry.next
    try:
        if backwards:
            entry.seek_to_last()
        else:
            entry.seek(first)
        while entry.valid() and (key := entry.key()) >= first:
            yield key, entry.value()
            move()
        try:
            entry.status()
        except Exception as error:  # rocksdict raises bare exceptions
            raise _damaged(directory, error) from None
    finally:
        del entry, move  # a traceback would keep them, and they the open files


def _opened(directory: Path, folder: Path, families: Families, access: AccessType) -> Rdict:
    """Open the files of a folder, which is `live/` or a checkpoint; raises `JournalDamaged` or `JournalFailed`."""
    damage = None
    try:
        damage = damage_in(folder)
        if damage is None:
            return Rdict(str(folder), _options(), dict(families), access)
    except Exception as error:  # rocksdict raises bare exceptions
        if not str(error).startswith("Corruption"):
            raise JournalFailed(
                f"the journal {directory} cannot be opened: {error}", "mend the disk and start the collector again"
            ) from None
        damage = str(error)
    checkpoint = checkpoints.current(directory)
    if folder.name != "live":
        hint = f"delete {folder}: the collector makes another"
    elif checkpoint is None:
        hint = "move the folder away and start the collector: what the exchange still serves is fetched again"
    else:
        hint = (
            f"put a copy of {checkpoint} in the place of {folder} and start the collector: what came since is repaired"
        )
    raise JournalDamaged(f"{folder} cannot be opened: {damage}", hint)


def _nothing() -> "Future[None]":
    done = Future[None]()
    done.set_result(None)
    return done


def _damaged(directory: Path, error: Exception) -> JournalDamaged:
    return JournalDamaged(
        f"the journal {directory} is damaged: {error}",
        "mend the disk, move the folder away and start the collector: what the exchange still serves is fetched again",
    )


def _format_of(directory: Path, name: str, older: Sequence[str]) -> str | None:
    """Return the format of a directory, None where nothing was written yet; refuse one that is not among those named."""
    stamp = directory / "FORMAT"
    if not stamp.exists() and not (directory / "live").exists():
        return None
    found = stamp.read_text(encoding="utf-8", errors="replace").strip() if stamp.exists() else "unknown"
    if found not in (name, *older):
        raise JournalFormat(
            f"{directory} holds format {found[:40]!r} and not {name!r}",
            f"keep the folder for the software that knows the format, and give another; {_lost_with(found)}",
        )
    return found


def _lost_with(found: str) -> str:
    """Say what is lost with a directory of some format."""
    if found.startswith("trade journal"):
        return "its trades can be fetched again, its order books and mark prices cannot"
    return (
        "nothing in it can be fetched again" if found.startswith("identity journal") else "what it holds is not known"
    )


def _newest_checkpoint(
    directory: Path, name: str, families: Families, older: Sequence[str]
) -> tuple[Path, float | None]:
    """Return the checkpoint to read and, where nobody made a new one, how many seconds old it is."""
    made = checkpoints.requested(directory, control_socket(directory))
    if made is not None:
        return made, None
    current = checkpoints.current(directory)
    try:
        with Database.write(directory, name, families, 0 if current else PATIENCE_S, older=older) as database:
            return database.checkpoint(), None
    except JournalHeld:
        current = checkpoints.current(directory)
        if current is None:
            raise
        age_s = checkpoints.age_s(directory)
        _log.warning("the collector of %s does not answer; its checkpoint of %.0f s ago is read", directory, age_s)
        return current, age_s


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_atomic_flush(True)  # so that a log cut short leaves all column families at one moment
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(LOG_BYTES)
    options.set_max_open_files(OPEN_FILES)
    options.set_max_manifest_file_size(MANIFEST_BYTES)
    return options
