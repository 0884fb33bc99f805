"""What a command prints: text for people, and with `--json` one JSON object as the last line, errors included."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from trading.errors import TradingError


def emit(answer: dict[str, Any], as_json: bool) -> None:
    """Print the JSON line, where it was asked for."""
    if as_json:
        print(json.dumps(answer, default=str), flush=True)


@contextmanager
def speaking_plainly(as_json: bool) -> Iterator[None]:
    """Turn every error into one sentence and a non-zero exit status."""
    try:
        yield
    except (typer.Exit, TyperException):
        raise
    except BrokenPipeError:
        # Whoever read this has read enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        emit({"error": "Interrupted: it was stopped before its end", "hint": "run it again"}, as_json)
        raise
    except Exception as error:
        raise typer.Exit(refuse(error, as_json)) from error


def refuse(error: Exception, as_json: bool) -> int:
    """Say what went wrong and what to do; return the exit status."""
    name, status = type(error).__name__, 1
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        message, status = error.format_message(), error.exit_code
        hint = f"run '{context.command_path if context is not None else 'trading'} --help'"
    elif isinstance(error, TradingError):
        message, hint = error.message, error.hint
    else:
        message, hint = str(error), f"run 'trading doctor'; the details are in {_logged(error)}"
    known = error.known if isinstance(error, TradingError) else {}
    emit({"error": f"{name}: {message}", "hint": hint, **known}, as_json)
    print(f"{name}: {'; '.join(part for part in (message, hint) if part)}", file=sys.stderr)
    return status


def _logged(error: Exception) -> Path:
    """Append the traceback to a log: the home's, or one of its own where there is no home."""
    logs = Path(os.environ.get("TRADING_HOME", ".trading")) / "logs"
    if logs.is_dir() and os.access(logs, os.W_OK):
        log = logs / "trading.log"
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    else:
        descriptor, name = tempfile.mkstemp(prefix="trading-", suffix=".log")
        log = Path(name)
    with open(descriptor, "a", encoding="utf-8") as file:  # noqa: PTH123
        traceback.print_exception(error, file=file)
    return log
