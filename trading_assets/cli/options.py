"""What commands have in common: options, the home they work on, times as people write them."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from trading.errors import TradingError

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder that keeps everything (TRADING_HOME).")]
OneSymbol = Annotated[str, typer.Argument(help="Exchange name, e.g. BTCUSDT; all where none is given.")]
VenueOption = Annotated[
    str, typer.Option("--venue", help="A venue whose ids prove nothing, bybit or hyperliquid: what its journal says.")
]
SymbolOption = Annotated[str, typer.Option("--symbol", help="Exchange name, e.g. BTCUSDT.")]


class BadMoment(TradingError):
    """A time was given that is no UTC date or time."""


def home_path(home: Path | None) -> Path:
    """Return the home's folder and make it known to every process started from here."""
    path = (home or Path(os.environ.get("TRADING_HOME") or ".trading")).expanduser().resolve()
    os.environ["TRADING_HOME"] = str(path)
    return path


def moment_ms(text: str | None, default: int, option: str) -> int:
    """Return an ISO date or time as epoch milliseconds; without an offset it is UTC."""
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadMoment(f"{option} {text!r} is no date or time", "write 2026-11-20 or 2026-11-20T12:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
