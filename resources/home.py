"""A home is the folder that keeps everything of one user's market: stores, logs, and what its first run fixed.

It is stamped simulated or live when it is created, and a simulated one with its market's source and end; another kind
or clock is refused, since rows of two markets must not mix.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from trading.errors import TradingError

SCHEMA: Final = 1
RESERVE_BYTES: Final = 256 * 2**20
"""Free space below which nothing is started: a store that fills the disk cannot even be opened again."""


class WrongHome(TradingError):
    """A home belongs to another kind of market, clock or version."""


class NoHome(TradingError):
    """There is no home where one was to be used."""


class HomeBusy(TradingError):
    """Another `trading up` or `trading demo` works on this home."""


class HomeNotWritable(TradingError):
    """A home cannot be written."""


class Home:
    """The folder of one home and what stands where in it.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()

    @property
    def _stamp(self) -> dict[str, Any]:
        file = self.path / "home.json"
        if not file.exists():
            return {}
        try:
            stamp = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WrongHome(f"{file} cannot be read: {error}", "give another --home") from None
        if not isinstance(stamp, dict) or not {"schema", "kind", "clock"} <= stamp.keys():
            raise WrongHome(f"{file} is not the stamp of a home", "give another --home")
        return stamp

    @property
    def kind(self) -> str:
        """`simulated` or `live`; a folder that is no home yet is to become a simulated one."""
        return self._stamp.get("kind", "simulated")

    @property
    def clock(self) -> dict[str, Any]:
        """What the first run fixed: source, seed and end of the market."""
        return self._stamp.get("clock", {})

    def require(self) -> None:
        """Check that the folder is a home; nothing may be started in, or written to, one that is not.

        Raises:
            NoHome: It is not.
        """
        if not self._stamp:
            raise NoHome(f"there is no home at {self.path}", "'trading demo' or 'trading up' makes one; or give --home")

    def create(self, kind: str, clock: dict[str, Any]) -> None:
        """Make the folder a home of this kind and clock, or check that it already is one.

        Raises:
            HomeNotWritable: The folder cannot be made or written, or its disk is full.
            WrongHome: It belongs to another kind or clock.
        """
        try:
            for folder in (self.path, self.logs_dir, self.run_dir):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise HomeNotWritable(
                f"home {self.path} cannot be written: {error.strerror}", "set TRADING_HOME or --home to another folder"
            ) from None
        free = shutil.disk_usage(self.path).free
        if free < RESERVE_BYTES:
            raise HomeNotWritable(
                f"home {self.path} has {free // 2**20} MiB free, less than the reserve of {RESERVE_BYTES // 2**20} MiB",
                "free space or set TRADING_HOME to another disk",
            )
        with (self.run_dir / "home.lock").open("ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # two first runs at once must not both stamp it
            self._fix(kind, clock)

    @contextmanager
    def worked_on(self, command: str) -> Iterator[None]:
        """Hold the home's only place for a command that collects and materializes.

        Args:
            command: Its name, `up` or `demo`.

        Raises:
            HomeBusy: Another one holds it.
        """
        with (self.run_dir / "work.lock").open("a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                other, _, pid = lock.read().strip().partition(" ")
                raise HomeBusy(
                    f"'trading {other or 'up'}' runs on {self.path} already, as process {pid or 'unknown'}",
                    "wait for its end, stop it, or give another --home",
                ) from None
            lock.truncate(0)
            lock.write(f"{command} {os.getpid()}")
            lock.flush()
            yield
            lock.truncate(0)

    def _fix(self, kind: str, clock: dict[str, Any]) -> None:
        stamp = self._stamp
        if not stamp:
            self._write({"schema": SCHEMA, "kind": kind, "clock": clock})
            return
        if stamp.get("schema") != SCHEMA:
            raise WrongHome(f"home {self.path} was made by another version", "give another --home")
        if stamp["kind"] != kind:
            raise WrongHome(f"home {self.path} is {stamp['kind']}, not {kind}", "give another --home")
        for name, fixed in stamp["clock"].items():
            if name in clock and clock[name] != fixed:
                raise WrongHome(
                    f"home {self.path} was made with {name} {_short(fixed)}, not {_short(clock[name])}",
                    "give another --home",
                )
        if stamp["clock"].get("source", clock.get("source")) != clock.get("source"):
            raise WrongHome(f"home {self.path} holds another market", "give another --home")

    def _write(self, stamp: dict[str, Any]) -> None:
        unfinished = self.path / "home.json.unfinished"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(stamp, file, indent=1)
            file.flush()
            os.fsync(file.fileno())  # an empty stamp after a power loss would make the whole home unreadable
        unfinished.replace(self.path / "home.json")

    @property
    def postgres_dir(self) -> Path:
        """PostgreSQL's data directory."""
        return self.path / "postgres"

    @property
    def redis_dir(self) -> Path:
        """Redis's append-only file."""
        return self.path / "redis"

    @property
    def qdrant_dir(self) -> Path:
        """The Qdrant Edge shards, a folder each."""
        return self.path / "qdrant"

    @property
    def rocksdb_dir(self) -> Path:
        """The journal of the spot stream set."""
        return self.journal_dir("spot")

    def journal_dir(self, kind: str) -> Path:
        """Return the journal of one kind of market, `spot` or `usdm`, or of a venue whose ids prove nothing."""
        return self.path / "rocksdb" / kind

    @property
    def lmdb_dir(self) -> Path:
        """The LMDB projection."""
        return self.path / "lmdb"

    @property
    def lake_dir(self) -> Path:
        """The Parquet lake."""
        return self.path / "lake"

    @property
    def archive_dir(self) -> Path:
        """What was fetched from the exchange's archive; may be deleted."""
        return self.path / "cache" / "archive"

    @property
    def dead_letters_dir(self) -> Path:
        """Rows that the database did not take."""
        return self.path / "dead_letters"

    @property
    def logs_dir(self) -> Path:
        """Logs of every process."""
        return self.path / "logs"

    @property
    def run_dir(self) -> Path:
        """Leases, ports and pids of what runs."""
        return self.path / "run"

    @property
    def rest_budget_file(self) -> Path:
        """What the home's processes may still ask exchanges."""
        return self.run_dir / "rest_budget.json"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own home."""
        return self.path / "dagster"

    @property
    def socket_dir(self) -> Path:
        """A short folder for unix sockets, whose paths may not exceed 100 bytes; one for each home."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"trading-{name}"


def home_of(path: Path) -> Home | None:
    """Return the home that a file or folder lies in, if any."""
    inside = path.expanduser().resolve()
    return next((Home(folder) for folder in inside.parents if (folder / "home.json").exists()), None)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
