"""Why a database did not do what it was asked: the server is away, or the row is wrong, or the program is.

asyncpg has no common class for a server that went away, and the same cause comes as one of six exceptions, by when it
struck. Only what waiting can mend is a `Trouble`; a refused row is refused again however often it is sent.
"""

from enum import StrEnum
from typing import Final

import asyncpg
import polars as pl

from resources.timescale.counted import NotStorable
from trading.errors import TradingError


class Trouble(StrEnum):
    """What keeps a server from answering, for a while."""

    REFUSED = "refused"
    """Nothing listens, or the way there is cut."""
    CUT = "cut"
    """The connection ended in the middle."""
    STARTING = "starting"
    """The server starts, stops or recovers."""
    SHUT_DOWN = "shut_down"
    """The server ended the connection: a stop, a crash of another connection, an administrator."""
    READ_ONLY = "read_only"
    """A standby, or a server that was told to take no writes."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    POOL_EXHAUSTED = "pool_exhausted"
    """All of this process's connections are lent."""
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    """Deadlock, serialization failure, a lock that was not had in time."""
    FULL = "full"
    """No room on the server's disk or in its memory, or its disk fails."""


UNCERTAIN: Final = frozenset({Trouble.CUT, Trouble.SHUT_DOWN, Trouble.TIMEOUT})
"""After these nobody knows whether a COMMIT that was on its way was done."""

_BY_STATE: Final = {
    "08": Trouble.CUT,
    "57P01": Trouble.SHUT_DOWN,
    "57P02": Trouble.SHUT_DOWN,
    "57P03": Trouble.STARTING,
    "57P05": Trouble.SHUT_DOWN,
    "25P03": Trouble.SHUT_DOWN,  # idle in a transaction for too long
    "25006": Trouble.READ_ONLY,
    "53300": Trouble.TOO_MANY_CONNECTIONS,
    "53100": Trouble.FULL,
    "53200": Trouble.FULL,
    "58030": Trouble.FULL,
    "57014": Trouble.TIMEOUT,
    "40001": Trouble.CONFLICT,
    "40P01": Trouble.CONFLICT,
    "55P03": Trouble.CONFLICT,
}
_ROW_CLASSES: Final = ("21", "22", "23")
"""SQLSTATE classes of one key twice, of a wrong value and of a broken constraint."""


class DatabaseUnavailable(TradingError):
    """The market database cannot be reached."""

    def __init__(self, message: str, hint: str = "", trouble: Trouble | None = None) -> None:
        super().__init__(message, hint)
        self.trouble = trouble


class OutcomeUnknown(DatabaseUnavailable):
    """The connection ended when a write that must not be done twice was on its way: it was done wholly or not at all."""


class PoolExhausted(Exception):
    """All connections of a pool are lent."""


class NotWritable(TradingError):
    """The server at the other end takes no writes."""


class ServerInRecovery(NotWritable):
    """The server is a replica, or is still starting from its log."""

    def __init__(self) -> None:
        super().__init__(
            "the market database is a replica, or replays its log",
            "give the primary's URL, or wait until it has started",
        )


class ServerReadOnly(NotWritable):
    """The server was told to take no writes."""

    def __init__(self) -> None:
        super().__init__(
            "the market database takes no writes",
            "ALTER DATABASE … RESET default_transaction_read_only, or another role",
        )


def trouble_of(error: BaseException) -> Trouble | None:
    """Return what an exception of asyncpg or of a socket says of the server, None where waiting mends nothing."""
    if isinstance(error, PoolExhausted):
        return Trouble.POOL_EXHAUSTED
    if isinstance(error, NotWritable):
        return Trouble.READ_ONLY
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return _BY_STATE.get(state) or _BY_STATE.get(state[:2])
    if isinstance(error, TimeoutError):
        return Trouble.TIMEOUT
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Trouble.CUT
    if isinstance(error, OSError):  # also what asyncpg raises when a socket's file is not there
        return Trouble.REFUSED
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError) and not isinstance(error, ValueError):
        return Trouble.CUT  # "connection is closed", or an answer that ended in the middle
    return None


def is_rows_fault(error: BaseException) -> bool:
    """Return whether the same rows would be refused again: a wrong value or a broken constraint."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _ROW_CLASSES
    return isinstance(error, asyncpg.DataError | NotStorable | OverflowError | pl.exceptions.PolarsError)
