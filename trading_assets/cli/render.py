"""Tables for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def table_of(title: str, values: Mapping[str, Any]) -> None:
    """Print one row a value; nested mappings become one row an entry."""
    table = Table("what", "value", title=title)
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, entry in value.items():
                table.add_row(f"{name} {inner}", _text(entry))
        else:
            table.add_row(name, _text(value))
    Console().print(table)


def neighbours_table(answer: Mapping[str, Any]) -> None:
    """Print similar states with their outcomes."""
    table = Table(
        "time (UTC)", "distance", "1h %", "4h %", "24h %", title=f"{answer['symbol']} at {answer['state_at']}"
    )
    for n in answer["neighbours"]:
        table.add_row(
            n["time"], f"{n['distance']:.3f}", *(_percent(n[f"outcome_{horizon}"]) for horizon in ("1h", "4h", "24h"))
        )
    Console().print(table)
    if not answer["neighbours"]:
        Console().print("No state was mature by then: 24 hours must have passed after a state before it counts.")


def days_table(report: Mapping[str, Any]) -> None:
    """Print what was brought in by day, and what is proven of it."""
    table = Table("day (UTC)", "trades", "new", "over REST", "archive", "verdict", title=report["symbol"])
    for row in report["days"]:
        archive = f"version {row['archive']['version']}" if "archive" in row else row.get("refused", "none")
        numbers = (f"{row[name]:,}" for name in ("trades", "inserted", "over_rest"))
        table.add_row(row["day"], *numbers, archive, row["verdict"])
    Console().print(table)
    if report["proven"] + report["degraded"]:
        Console().print("Candles follow when these days of market_chain are materialized.")


def findings_table(findings: Iterable[Any]) -> None:
    """Print what the doctor found."""
    table = Table("what", "where", "version", "state", "what to do")
    for f in findings:
        table.add_row(f.what, str(f.where), f.version, f.state, f.advice)
    Console().print(table)


def settings_table(rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Print settings with origin and meaning."""
    table = Table("key", "value", "origin", "meaning")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.2f}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "none" if not value else "\n".join(_text(item) for item in value[:5])
    if isinstance(value, Mapping):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
