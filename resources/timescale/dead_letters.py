"""A dead letter is rows that the database did not take, in a file, with the reason; none is lost and each can be sent again.

A file is there whole or not at all, and on the disk before anybody is told that the rows are kept. Files are Parquet, named
by when they were written and what they belong to, so that an order by name is the order in which they came.
"""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from resources.timescale.delivery import TABLES, Delivery, span_ms
from resources.timescale.store import MarketStore
from resources.timescale.trouble import DatabaseUnavailable
from resources.timescale.writing import Written
from trading.errors import TradingError
from trading.market.timeframe import Timeframe
from trading.provider.pipeline import Batch, Series

SUFFIX: Final = ".parquet"
REASON_LENGTH: Final = 500


class LetterDamaged(TradingError):
    """A file among the dead letters is none, or cannot be read."""


@dataclass(frozen=True)
class DeadLetter:
    """One file.

    Attributes:
        path: The file.
        series: Where its rows belong.
        rows: How many there are.
        reason: Why the database did not take them.
        recorded_at_ms: The exchange's clock when the last of them came.
    """

    path: Path
    series: Series
    rows: int
    reason: str
    recorded_at_ms: int

    def batch(self) -> Batch:
        """Return its rows."""
        return Batch(self.series, pl.read_parquet(self.path), self.recorded_at_ms)


class DeadLetters:
    """The dead letters of one database.

    Args:
        directory: Where they lie; made when the first is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.refused_file = directory / "refused.jsonl"
        """Beside them, for rows that cannot have happened: they never go to the database."""

    def write(self, batch: Batch, reason: str) -> Path:
        """Keep rows; they are on the disk when this returns.

        A letter of the same rows is replaced: what is read again from a journal is refused again.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        series = batch.series
        told = {
            "table": series.table,
            "symbol": series.symbol,
            "timeframe": series.timeframe.value if series.timeframe else "",
            "reason": reason[:REASON_LENGTH],
            "recorded_at_ms": str(batch.recorded_at_ms),
            "rows": str(len(batch.frame)),
        }
        named = f"{_digest(batch)}-{series.table}{SUFFIX}"
        # The exchange's clock may stand still, and several processes and threads write: no two may choose one name.
        final = self._directory / f"{batch.recorded_at_ms:015d}-{time.time_ns()}-{named}"
        unfinished = self._directory / f"{uuid.uuid4().hex}.unfinished"
        content = io.BytesIO()  # on a full disk polars itself would raise an error that says that rows are wrong
        batch.frame.write_parquet(content, metadata=told)
        try:
            with unfinished.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)  # on a full disk it is tried again and again
        _sync(self._directory)
        for same in self._directory.glob(f"*-{named}"):
            if same.name < final.name:
                same.unlink(missing_ok=True)
        return final

    def letters(self) -> Iterator[DeadLetter]:
        """Yield what is kept, the oldest first.

        Raises:
            LetterDamaged: A file is no letter.
        """
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                told = pl.read_parquet_metadata(path)
                timeframe = Timeframe(told["timeframe"]) if told["timeframe"] else None
                series = Series(told["table"], told["symbol"], timeframe)
                yield DeadLetter(path, series, int(told["rows"]), told["reason"], int(told["recorded_at_ms"]))
            except FileNotFoundError:  # another process has sent it again meanwhile
                continue
            except (pl.exceptions.PolarsError, OSError, LookupError, ValueError) as error:
                raise LetterDamaged(
                    f"{path} is no dead letter: {error}", "move it away, and restore it if it was one"
                ) from error

    def discard(self, letter: DeadLetter) -> None:
        """Delete a letter whose rows are in the database."""
        letter.path.unlink(missing_ok=True)
        _sync(self._directory)


def _digest(batch: Batch) -> str:
    """Return what is the same of letters of the same rows."""
    rows = io.BytesIO(repr(batch.series).encode())
    rows.seek(0, io.SEEK_END)
    batch.frame.rechunk().write_ipc(rows)
    return hashlib.sha256(rows.getbuffer()).hexdigest()[:32]


def _sync(directory: Path) -> None:
    """Write down what files a directory has."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Replayed:
    """What became of a letter that was sent again.

    Attributes:
        letter: As it was.
        written: What the database took.
        known: Rows that it did not need any more.
        left: Rows that are refused again, and still lie in letters.
        reason: Why, of the last of them.
    """

    letter: DeadLetter
    written: Written
    known: int
    left: int
    reason: str = ""


def replay(store: MarketStore, letters: DeadLetters) -> Iterator[Replayed]:
    """Send all dead letters again, the oldest first, and yield what became of each.

    A row of which the database knows a later version already is left out: a letter is news of when it was written.

    Raises:
        DatabaseUnavailable: The server is away; what was not sent stays as it is.
        LetterDamaged: A file is no letter.
    """
    for letter in letters.letters():
        try:
            yield _sent_again(store, letters, letter)
        except DatabaseUnavailable:
            raise
        except Exception as error:
            yield Replayed(letter, Written(), 0, letter.rows, f"{type(error).__name__}: {error}")


def _sent_again(store: MarketStore, letters: DeadLetters, letter: DeadLetter) -> Replayed:
    refused: list[tuple[Batch, str]] = []
    news = _news(store, letter.batch())
    delivery = Delivery(news, lambda part, reason: refused.append((part, reason)))
    delivery.go_on(store)
    if delivery.aside < letter.rows:
        for part, reason in refused:
            letters.write(part, reason)
        letters.discard(letter)
    reason = refused[-1][1] if refused else ""
    return Replayed(letter, delivery.written, letter.rows - len(news.frame), delivery.aside, reason)


def _news(store: MarketStore, batch: Batch) -> Batch:
    """Return the rows of a batch of which the database knows no later version."""
    table, (_, symbol, timeframe) = TABLES[batch.series.table], batch.series
    if not table.revised:
        return batch
    of_table = timeframe if table.by_timeframe else None
    there = store.read(table, symbol, *span_ms(table, batch.frame), of_table)
    known = there.select(*table.key, known_since="known_at_ms")
    rows = batch.frame.join(known, on=list(table.key), how="left", maintain_order="left")
    mine = pl.coalesce("known_at_ms", pl.lit(batch.recorded_at_ms))
    return replace(batch, frame=rows.filter((pl.col("known_since") <= mine).fill_null(True)).drop("known_since"))
