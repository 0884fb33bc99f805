import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from resources.settings import SETTINGS, BadSetting, Settings, load_settings, masked

SECRET = "canary-7f3a"


def load(folder: Path, text: str = "", environment: Mapping[str, str] | None = None) -> Settings:
    (folder / "trading.toml").write_text(text, encoding="utf-8")
    return load_settings(folder, environment or {})


def test_nothing_needs_to_be_configured(tmp_path: Path) -> None:
    settings = load_settings(tmp_path / "not there", {})
    assert settings.symbols == ("BTCUSDT", "ETHUSDT")
    assert (settings.port, settings.seed, settings.postgres_url, settings.lmdb_path) == (3000, 7, "", None)


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    settings = load(tmp_path, '[market]\nsymbols = ["ethusdt"]\nseed = 3\n', {"TRADING_SEED": "5"})
    rows = {key: (value, origin) for key, value, origin, _ in settings.describe()}
    assert rows["seed"] == ("5", "TRADING_SEED")
    assert rows["symbols"] == ("ETHUSDT", "trading.toml [market]")
    assert rows["port"] == ("3000", "default")


def test_every_setting_is_described_with_a_meaning_and_can_be_frozen(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert [row[0] for row in settings.describe()] == [setting.key for setting in SETTINGS]
    assert all(meaning for *_, meaning in settings.describe())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


GOOD = {
    "a name that is not ASCII": {"TRADING_SYMBOLS": "币安人生USDT"},
    "spaces between symbols": {"TRADING_SYMBOLS": " btcusdt , ethusdt "},
    "a socket in the query": {"TRADING_POSTGRES_URL": "postgresql:///market?host=/run/pg"},
    "a socket's path": {"TRADING_REDIS_URL": "unix:///run/redis.sock"},
    "an IPv6 host": {"TRADING_QDRANT_URL": "http://[::1]:6333"},
    "the highest port": {"TRADING_PORT": "65535"},
    "the whole share": {"MAX_REJECTED_SHARE": "1"},
    "an archive's folder": {"TRADING_ARCHIVE_URL": "/srv/archive"},
    "an archive's URL": {"TRADING_ARCHIVE_URL": "https://archive.example/root"},
    "a sync for every write": {"JOURNAL_DURABILITY": "fsync"},
}


@pytest.mark.parametrize("environment", GOOD.values(), ids=GOOD.keys())
def test_what_is_allowed_is_taken(tmp_path: Path, environment: dict[str, str]) -> None:
    load(tmp_path, "", environment)


# Specification of wrong configurations: R-45, and rows 27 and 83 of the bad inputs.
BAD_VARIABLES = [
    ("TRADING_SYMBOLS", "", "symbols"),
    ("TRADING_SYMBOLS", " , ,", "symbols"),
    ("TRADING_SYMBOLS", "../../etc", "symbols"),
    ("TRADING_SYMBOLS", "A:B", "symbols"),
    ("TRADING_SYMBOLS", "BTC\0USDT", "symbols"),
    ("TRADING_SYMBOLS", "X" * 10_000, "symbols"),
    ("TRADING_SYMBOLS", "BTC/USDT", "symbols"),
    ("TRADING_SYMBOLS", "BTCUSDT;DROP TABLE", "symbols"),
    ("TRADING_SYMBOLS", "BTCUSDT,btcusdt", "symbols"),
    ("TRADING_SYMBOLS", ",".join(f"S{n}" for n in range(26)), "symbols"),
    ("TRADING_SEED", "-1", "seed"),
    ("TRADING_SEED", "seven", "seed"),
    ("TRADING_SEED", "1.5", "seed"),
    ("TRADING_SEED", "9" * 30, "seed"),
    ("TRADING_SEED", "", "seed"),
    ("TRADING_PORT", "0", "port"),
    ("TRADING_PORT", "65536", "port"),
    ("TRADING_PORT", "-3000", "port"),
    ("TRADING_PORT", "http", "port"),
    ("TRADING_POSTGRES_URL", "mysql://localhost/market", "postgres_url"),
    ("TRADING_POSTGRES_URL", "localhost:5432", "postgres_url"),
    ("TRADING_POSTGRES_URL", "postgresql://", "postgres_url"),
    ("TRADING_POSTGRES_URL", "postgresql://host:0/market", "postgres_url"),
    ("TRADING_POSTGRES_URL", "postgresql://host:70000/market", "postgres_url"),
    ("TRADING_POSTGRES_URL", "postgresql://host:port/market", "postgres_url"),
    ("TRADING_REDIS_URL", "http://localhost:6379", "redis_url"),
    ("TRADING_REDIS_URL", "unix://", "redis_url"),
    ("TRADING_REDIS_URL", "redis://local host", "redis_url"),
    ("TRADING_QDRANT_URL", "ftp://localhost", "qdrant_url"),
    ("TRADING_QDRANT_URL", "http:///collections", "qdrant_url"),
    ("TRADING_QDRANT_URL", "http://[::1", "qdrant_url"),
    ("TRADING_EXCHANGE_REST_URL", "ws://localhost", "exchange_rest_url"),
    ("TRADING_EXCHANGE_REST_URL", "file:///etc/passwd", "exchange_rest_url"),
    ("TRADING_EXCHANGE_WS_URL", "https://localhost", "exchange_ws_url"),
    ("TRADING_ARCHIVE_URL", "ftp://archive.example", "archive_url"),
    ("TRADING_ARCHIVE_URL", "a\0b", "archive_url"),
    ("JOURNAL_DURABILITY", "", "journal_durability"),
    ("JOURNAL_DURABILITY", "none", "journal_durability"),
    ("JOURNAL_DURABILITY", "FSYNC", "journal_durability"),
    ("JOURNAL_RETENTION_DAYS", "0", "journal_retention_days"),
    ("LMDB_PATH", "a\0b", "lmdb_path"),
    ("LMDB_MAX_SIZE_GB", "0", "lmdb_max_size_gb"),
    ("LMDB_MAX_SIZE_GB", "10GB", "lmdb_max_size_gb"),
    ("RAG_TOP_K", "-5", "top_k"),
]


@pytest.mark.parametrize(("variable", "value", "key"), BAD_VARIABLES)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path: Path, variable: str, value: str, key: str) -> None:
    with pytest.raises(BadSetting) as refused:
        load(tmp_path, "", {variable: value})
    assert key in refused.value.message
    assert variable in refused.value.message
    assert refused.value.hint.startswith("allowed: ")
    assert len(refused.value.message) < 200


def test_every_setting_is_read_by_something() -> None:
    root = Path(__file__).resolve().parents[2]
    files = [file for layer in ("resources", "sensors", "trading_assets") for file in (root / layer).rglob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in files if file.name != "settings.py")
    assert [setting.key for setting in SETTINGS if not re.search(rf"settings\.{setting.key}\b", code)] == []


BAD_FILES = [
    ("[market]\nsymbls = ['BTCUSDT']", "symbls"),
    ("[markets]\nsymbols = ['BTCUSDT']", "markets"),
    ("[rag]\nsymbols = ['BTCUSDT']", "symbols"),
    ("symbols = 'BTCUSDT'", "symbols"),
    ("[market]\nsymbols = []", "symbols"),
    ("[market]\nsymbols = [1, 2]", "symbols"),
    ("[market]\nsymbols = {a = 1}", "symbols"),
    ("[market]\nsymbols = true", "symbols"),
    ("[market]\nseed = true", "seed"),
    ("[ui]\nport = 3000.5", "port"),
    ("[ui]\nport = '3000 '", "port"),
    ("[stores]\npostgres_url = 5432", "postgres_url"),
    ("[journal]\njournal_durability = 1", "journal_durability"),
    ("[lmdb]\nlmdb_path = 7", "lmdb_path"),
    ("[rag]\ntop_k = 0.3", "top_k"),
    ("[market", "trading.toml"),
]


@pytest.mark.parametrize(("text", "named"), BAD_FILES)
def test_a_wrong_file_is_refused_by_what_is_wrong_in_it(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(BadSetting) as refused:
        load(tmp_path, text)
    assert named in refused.value.message
    assert refused.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trading.toml").mkdir()
    with pytest.raises(BadSetting, match="cannot be read"):
        load_settings(tmp_path, {})
    (tmp_path / "trading.toml").rmdir()
    (tmp_path / "trading.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSetting, match="is not TOML"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}@host/market",
        f"postgresql://user:{SECRET}/with@signs@host/market",
        f"postgresql://host/market?user=me&password={SECRET}&sslmode=require",
        f"redis://:{SECRET}@host:6379/0",
        f"http://host:6333?api-key={SECRET}",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in masked(f"cannot reach {url}")


def test_neither_the_settings_nor_a_refusal_show_a_password(tmp_path: Path) -> None:
    settings = load(tmp_path, "", {"TRADING_POSTGRES_URL": f"postgresql://user:{SECRET}@host/market"})
    assert SECRET in settings.postgres_url
    assert SECRET not in repr(settings)
    assert SECRET not in repr(settings.describe())
    with pytest.raises(BadSetting) as refused:
        load(tmp_path, "", {"TRADING_POSTGRES_URL": f"oracle://user:{SECRET}@host/market"})
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"
