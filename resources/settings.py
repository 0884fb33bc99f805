"""Settings: one value each for a name, from the environment, else the home's `trading.toml`, else a default.

Nothing needs to be configured to begin. A setting that is unknown or out of range is refused when it is loaded, by its
name and with what is allowed; nothing starts with half of its settings.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from trading.errors import TradingError


class BadSetting(TradingError):
    """A setting is unknown or out of range."""


@dataclass(frozen=True)
class Setting:
    """One setting: its section and key in `trading.toml`, its variable, default, reading and meaning."""

    section: str
    key: str
    variable: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str
    secret: bool = False


def _symbols(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("a list of symbols, e.g. BTCUSDT,ETHUSDT")
    symbols = tuple(name.strip().upper() for name in names if name.strip())
    if not symbols:
        raise ValueError("at least one symbol, e.g. BTCUSDT,ETHUSDT")
    for name in symbols:
        if not re.fullmatch(r"[\w-]{1,32}", name):
            raise ValueError(f"symbols of at most 32 letters and digits, not {name[:40]!r}")
    if len(set(symbols)) < len(symbols):
        raise ValueError("each symbol once")
    if len(symbols) > 25:
        raise ValueError("at most 25 symbols, as partitions are kept below 100,000")
    return symbols


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,18}", str(value)) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return read


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(words))
        return value

    return read


def _url(*schemes: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        allowed = ValueError(f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}, or nothing")
        if not isinstance(value, str) or re.search(r"[\s\0]", value.strip()):
            raise allowed
        text = value.strip()
        if not text:
            return ""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise ValueError("a URL with a port from 1 to 65535")
        # A unix socket has no host: it is named by the path or the query.
        socket = parts.scheme in ("unix", "postgresql", "postgres") and (parts.path.strip("/") or parts.query)
        if parts.scheme not in schemes or not (parts.hostname or socket):
            raise allowed
        return text

    return read


def _folder(value: Any) -> Path | None:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a path without NUL")
    return Path(value).expanduser() if value else None


def _folder_or_url(value: Any) -> str:
    if isinstance(value, str) and re.match(r"\s*\w+://", value):
        return _url("http", "https")(value)
    folder = _folder(value)
    return "" if folder is None else str(folder)


_POSTGRES, _REDIS = _url("postgresql", "postgres"), _url("redis", "rediss", "unix")
_HTTP, _WS = _url("http", "https"), _url("ws", "wss")
_SYNC = _one_of("second", "fsync")

SETTINGS: Final = (
    Setting("market", "symbols", "TRADING_SYMBOLS", "BTCUSDT,ETHUSDT", _symbols, "Symbols that are collected"),
    Setting("market", "seed", "TRADING_SEED", 7, _whole(0, 2**31), "Seed of the synthetic market"),
    Setting("stores", "postgres_url", "TRADING_POSTGRES_URL", "", _POSTGRES, "PostgreSQL; empty: embedded", True),
    Setting(
        "stores",
        "postgres_read_url",
        "TRADING_POSTGRES_READ_URL",
        "",
        _POSTGRES,
        "A replica of it, asked what is asked of the data provider while it keeps up; empty: none",
        True,
    ),
    Setting("stores", "redis_url", "TRADING_REDIS_URL", "", _REDIS, "Redis; empty: embedded", True),
    Setting("stores", "qdrant_url", "TRADING_QDRANT_URL", "", _HTTP, "Qdrant; empty: embedded", True),
    Setting("exchange", "exchange_rest_url", "TRADING_EXCHANGE_REST_URL", "", _HTTP, "REST root; empty: simulated"),
    Setting(
        "exchange", "futures_rest_url", "TRADING_FUTURES_REST_URL", "", _HTTP, "USDⓈ-M root; empty: no derivatives"
    ),
    Setting("exchange", "exchange_ws_url", "TRADING_EXCHANGE_WS_URL", "", _WS, "Stream root; empty: simulated"),
    Setting(
        "exchange", "futures_ws_url", "TRADING_FUTURES_WS_URL", "", _WS, "USDⓈ-M stream root; empty: not collected"
    ),
    Setting(
        "exchange", "archive_url", "TRADING_ARCHIVE_URL", "", _folder_or_url, "Archive, folder or URL; empty: none"
    ),
    Setting("ui", "port", "TRADING_PORT", 3000, _whole(1, 65535), "Port of the Dagster UI on loopback"),
    Setting(
        "ui",
        "metrics_port",
        "TRADING_METRICS_PORT",
        0,
        _whole(0, 65534),
        "Prometheus metrics of the collector, of contracts on the next port; 0: none",
    ),
    Setting(
        "journal", "journal_durability", "JOURNAL_DURABILITY", "second", _SYNC, "The journal's sync: second or fsync"
    ),
    Setting(
        "journal", "journal_retention_days", "JOURNAL_RETENTION_DAYS", 7, _whole(1, 36500), "Days of trades it keeps"
    ),
    Setting(
        "live",
        "live",
        "TRADING_LIVE",
        "on",
        _one_of("on", "off"),
        "Trades and bars into database and Redis as they come: on or off",
    ),
    Setting(
        "lmdb",
        "lmdb_path",
        "LMDB_PATH",
        "",
        _folder,
        "LMDB of an external producer, read and never written; empty: our own",
    ),
    Setting("lmdb", "lmdb_max_size_gb", "LMDB_MAX_SIZE_GB", 10, _whole(1, 4096), "Size of the LMDB map, GiB"),
    Setting("lake", "lake_path", "TRADING_LAKE_PATH", "", _folder, "Folder of the Parquet lake; empty: in the home"),
    Setting(
        "lake",
        "keep_trades_days",
        "TRADING_KEEP_TRADES_DAYS",
        0,
        _whole(0, 36500),
        "Days of trades in PostgreSQL; 0: all",
    ),
    Setting(
        "lake",
        "keep_seconds_days",
        "TRADING_KEEP_SECONDS_DAYS",
        0,
        _whole(0, 36500),
        "Days of one-second bars and books in PostgreSQL; 0: all",
    ),
    Setting("rag", "top_k", "RAG_TOP_K", 10, _whole(1, 1000), "Similar states that are shown"),
)


@dataclass(frozen=True)
class Settings:
    """All settings of one home by name; see `SETTINGS` for their meaning."""

    symbols: tuple[str, ...]
    seed: int
    postgres_url: str = field(repr=False)
    postgres_read_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    qdrant_url: str = field(repr=False)
    exchange_rest_url: str
    futures_rest_url: str
    exchange_ws_url: str
    futures_ws_url: str
    archive_url: str
    port: int
    metrics_port: int
    journal_durability: str
    journal_retention_days: int
    live: str
    lmdb_path: Path | None
    lmdb_max_size_gb: int
    lake_path: Path | None
    keep_trades_days: int
    keep_seconds_days: int
    top_k: int
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)

    def describe(self) -> list[tuple[str, str, str, str]]:
        """Return (key, value, origin, meaning) of every setting, passwords masked."""
        rows = []
        for setting in SETTINGS:
            value = getattr(self, setting.key)
            text = ",".join(value) if isinstance(value, tuple) else str("" if value is None else value)
            rows.append(
                (setting.key, masked(text) if setting.secret else text, self.origins[setting.key], setting.meaning)
            )
        return rows


def load_settings(home: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a home.

    Raises:
        BadSetting: One is unknown or out of range; the message names it and what is allowed.
    """
    variables = os.environ if environment is None else environment
    file = home / "trading.toml"
    written = _written(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        if setting.variable in variables:
            value, origin = variables[setting.variable], setting.variable
        elif setting.key in written:
            value, origin = written[setting.key], f"{file.name} [{setting.section}]"
        else:
            value, origin = setting.default, "default"
        try:
            values[setting.key] = setting.read(value)
        except (ValueError, TypeError) as error:
            shown = "the value given" if setting.secret else repr(value)[:60]
            raise BadSetting(f"{setting.key} from {origin} is {shown}", f"allowed: {error}") from None
        origins[setting.key] = origin
    return Settings(**values, origins=origins)


def _written(file: Path) -> dict[str, Any]:
    """Return the file's values by key, after checking that each stands in its section."""
    if not file.exists():
        return {}
    try:
        sections = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{file} is not TOML: {error}", "mend or delete it") from None
    except OSError as error:
        raise BadSetting(f"{file} cannot be read: {error.strerror}", "mend or delete it") from None
    known = {(setting.section, setting.key) for setting in SETTINGS}
    values: dict[str, Any] = {}
    for section, entries in sections.items():
        if not isinstance(entries, dict):
            raise BadSetting(f"{section} stands outside a section of {file.name}", f"sections: {_names(known, 0)}")
        for key, value in entries.items():
            if (section, key) not in known:
                allowed = ", ".join(k for s, k in sorted(known) if s == section) or f"sections {_names(known, 0)}"
                raise BadSetting(f"[{section}] {key} in {file.name} is unknown", f"allowed: {allowed}")
            values[key] = value
    return values


def _names(known: set[tuple[str, str]], part: int) -> str:
    return ", ".join(sorted({entry[part] for entry in known}))


def masked(text: str) -> str:
    """Return a text with the passwords of the URLs in it masked."""
    text = re.sub(r"(://[^:/?#\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(?i)([?&](?:password|passfile|sslpassword|api[-_]?key|token)=)[^&\s]*", r"\1***", text)
