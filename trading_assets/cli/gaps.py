"""What is missing, why, and how to get it: the commands `gaps`, `repair` and `coverage`."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from trading.errors import TradingError
from trading_assets.coverage import STATES, coverage

if TYPE_CHECKING:
    from resources.stores import Stores

PATIENCE_S: Final = 120.0
LOOK_S: Final = 0.5
SIGNS: Final = dict(zip(STATES, "█▒…○·", strict=True))


class NotCollected(TradingError):
    """A symbol is not known here."""


class BadExplanation(TradingError):
    """Something lacks that an explanation needs."""


class RepairUnfinished(TradingError):
    """Something is still missing that the exchange may have."""


class CollectorSilent(TradingError):
    """The running collector has not answered, or not what it was asked."""


def symbols_of(stores: "Stores", symbol: str) -> list[str]:
    """Return the symbols that are meant: the one given, or all that the database knows.

    Raises:
        NotCollected: The database does not know it.
    """
    known = sorted(stores.market.instruments())
    if symbol and symbol not in known:
        raise NotCollected(f"{symbol} is not among the instruments of this home", f"known are {', '.join(known)}")
    return [symbol] if symbol else known


def gaps(stores: "Stores", symbols: Sequence[str]) -> dict[str, Any]:
    """Return what is or was missing, and what was set aside, after taking over what the journal says now."""
    from resources import gap_ledger
    from resources.journal import TradeJournal

    aside: Counter[str] = Counter()
    warnings: list[str] = []
    if stores.home.rocksdb_dir.exists():
        with TradeJournal.read(stores.home.rocksdb_dir) as journal:
            for symbol in symbols:
                gap_ledger.project(journal, stores.market, symbol)
            aside.update(reason.partition(":")[0] for _, reason, _ in journal.quarantined())
            warnings += journal.warnings
    rows = gap_ledger.gaps(stores.market, list(symbols))
    totals = {state: 0 for state in ("repairing", "absent", "explained", "repaired")}
    for row in rows:
        totals["repaired"] += row["ids"] - row["missing"]
        if row["missing"]:
            totals[row["state"]] += row["missing"]
    return {"gaps": rows, "ids": totals, "set_aside": dict(aside), "warnings": warnings}


def explain(stores: "Stores", symbol: str, ids: str, note: str) -> None:
    """Note why ids are missing.

    Raises:
        BadExplanation: Symbol, ids or note lack.
        NoSuchGap: None of these ids is missing.
    """
    from resources import gap_ledger

    first, _, last = ids.partition("-")
    if not (symbol and note and first.isdecimal() and (last or first).isdecimal()):
        raise BadExplanation("an explanation needs a symbol, ids and a note", "gaps BTCUSDT --explain 5-9 --note 'why'")
    gap_ledger.explain(stores.market, symbol, int(first), int(last or first), note)


def repair(stores: "Stores", quiet: bool) -> dict[str, Any]:
    """Have everything asked for again that is missing, ids once found absent included, and wait for the answers.

    The running collector does it; where none runs, one is started and ends when nothing is left to ask for.

    Raises:
        RepairUnfinished: The exchange has not answered everything in time.
        CollectorSilent: The running collector has not answered.
    """
    status = _ask(stores, b"repair")
    if status is None:
        return _collect_once(stores)
    begun, deadline = status["repaired"], time.monotonic() + PATIENCE_S
    shown = _showing(quiet)
    while not all(symbol["settled"] for symbol in status["symbols"].values()):
        if time.monotonic() > deadline:
            holes = sum(symbol["holes"] for symbol in status["symbols"].values())
            raise RepairUnfinished(
                f"{holes} holes are still open after {PATIENCE_S:.0f} s",
                "the collector goes on asking; 'trading gaps' shows what is left",
            )
        time.sleep(LOOK_S)
        status = _ask(stores, b"status") or status
        shown(status["repaired"] - begun)
    return {"repaired": status["repaired"] - begun, "absent": status["absent"]}


def _showing(quiet: bool) -> Callable[[int], None]:
    return lambda count: None if quiet else print(f"\r{count} trades fetched", end="", file=sys.stderr, flush=True)


def _ask(stores: "Stores", command: bytes) -> dict[str, Any] | None:
    """Return what the running collector answers, or None where none runs."""
    from resources.checkpoints import CONTROL_TIMEOUT_S
    from resources.rocksdb import control_socket

    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONTROL_TIMEOUT_S)
            client.connect(str(control_socket(stores.home.rocksdb_dir)))
            client.sendall(command + b"\n")
            with client.makefile("rb") as answer:
                said = answer.readline()
        return json.loads(said)
    except (FileNotFoundError, ConnectionError):
        return None
    except TimeoutError:
        raise CollectorSilent(
            f"the collector has not answered within {CONTROL_TIMEOUT_S} s",
            "see 'trading status' how old its last sign of life is; one that is silent for long is started anew",
        ) from None
    except ValueError:
        raise CollectorSilent(
            f"the collector answered {said.decode(errors='replace')[:80]!r}, which is no status; it may be about to end",
            "wait until it is running again and run 'trading repair' again",
        ) from None


def _collect_once(stores: "Stores") -> dict[str, Any]:
    settings = stores.settings
    now_ms = stores.exchange.now_ms()
    command = [sys.executable, "-m", "resources.collector", "--journal", str(stores.home.rocksdb_dir)]
    command += ["--rest", settings.exchange_rest_url, "--ws", settings.exchange_ws_url, "--venue", stores.venue]
    command += ["--symbols", ",".join(settings.symbols), "--until-ms", str(now_ms), "--again"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RepairUnfinished(f"the collector ended: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    status = json.loads(done.stdout.splitlines()[-1])
    if "held" in status:
        raise RepairUnfinished(f"a collector has just begun: {status['held']}", "run 'trading repair' again")
    return {"repaired": status["repaired"], "absent": status["absent"]}


def covered(
    stores: "Stores", symbols: Sequence[str], lo_ms: int | None, hi_ms: int | None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return coverage by symbol, day and dataset, and how many of these are in which state."""
    now_ms = int(time.time() * 1000) if stores.home.kind == "live" else None
    rows = coverage(stores.market, symbols, lo_ms, hi_ms, now_ms)
    counted = Counter(row["state"] for row in rows)
    return rows, {name: counted[name] for name in STATES}


def print_gaps(answer: dict[str, Any]) -> None:
    """Print gaps as a table, newest last."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "symbol",
        "state",
        "ids",
        "first … last",
        "from (UTC)",
        "to (UTC)",
        "from where",
        "why",
        title="Ids that the stream did not bring",
    )
    for row in answer["gaps"]:
        span = f"{row['first_id']} … {row['last_id']}"
        table.add_row(
            *(row["symbol"], row["state"], str(row["ids"]), span, row["from_time"], row["until_time"]),
            *(row["repaired_from"] or "", row["note"] or ""),
        )
    console = Console(soft_wrap=True)
    if answer["gaps"]:
        console.print(table)
    open_ids, absent = answer["ids"]["repairing"], answer["ids"]["absent"]
    console.print(
        f"{open_ids} ids are being repaired, {absent} are absent at the exchange, {answer['ids']['explained']} explained, "
        f"{answer['ids']['repaired']} came otherwise than by the stream."
    )
    for warning in answer["warnings"]:
        console.print(f"! {warning}")
    for reason, count in answer["set_aside"].items():
        console.print(f"{count} frames or batches were set aside: {reason}")


def print_coverage(rows: list[dict[str, Any]], legend: Mapping[str, str] = SIGNS) -> None:
    """Print a grid for each symbol: a line a dataset, a sign a day."""
    from rich.console import Console

    console = Console(highlight=False)
    for symbol, of_symbol in groupby(rows, key=lambda row: row["symbol"]):
        entries = list(of_symbol)
        console.print(f"{symbol}  {entries[0]['day']} … {entries[-1]['day']}")
        for dataset in dict.fromkeys(row["dataset"] for row in entries):
            signs = "".join(legend[row["state"]] for row in entries if row["dataset"] == dataset)
            console.print(f"  {dataset:<20} {signs}")
    console.print("  ".join(f"{sign} {name}" for name, sign in legend.items()))
