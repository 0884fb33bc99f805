"""What a command prints: text for people, and with `--json` one JSON object as the last line, errors included."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from trading.errors import TradingError


def emit(answer: dict[str, Any], as_json: bool) -> None:
    """Print the JSON line, where it was asked for."""
    if as_json:
        print(json.dumps(answer, default=str), flush=True)


@contextmanager
def speaking_plainly(as_json: bool) -> Iterator[None]:
    """Turn an error that a user can act on into one sentence and exit status 1."""
    try:
        yield
    except TradingError as error:
        emit({"error": f"{type(error).__name__}: {error.message}", "hint": error.hint}, as_json)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        emit({"error": f"{type(error).__name__}: {error}", "hint": "run 'trading doctor'"}, as_json)
        print(f"{type(error).__name__}: {error}; run 'trading doctor'", file=sys.stderr)
        raise typer.Exit(1) from error
