"""A file that appears whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trading.errors import TradingError


class FileNotWritten(TradingError):
    """A file cannot be written where it was asked for."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a hidden file to write; it takes the place of `path` when the block ends, and goes when it fails.

    Raises:
        FileNotWritten: The folder is not there, or not writable, or its disk is full.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise FileNotWritten(f"{path} cannot be written: {why}", "name a file in a folder of yours") from None
    finally:
        unfinished.unlink(missing_ok=True)
