"""Settings: nothing to configure to begin, and every wrong one is refused by its name."""

import time
from pathlib import Path

import pytest

from resources.settings import SETTINGS, BadSetting, load_settings


def test_nothing_needs_to_be_configured(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings.symbols == ("BTCUSDT", "ETHUSDT")
    assert set(settings.origins.values()) == {"default"}


def test_the_environment_comes_before_the_file_and_the_origin_says_so(tmp_path: Path) -> None:
    (tmp_path / "trading.toml").write_text("[ui]\nport = 4000\n[market]\nseed = 3\n")
    settings = load_settings(tmp_path, {"TRADING_PORT": "5000"})
    assert (settings.port, settings.seed) == (5000, 3)
    origins = {key: origin for key, _, origin, _ in settings.describe()}
    assert origins["port"] == "TRADING_PORT"
    assert origins["seed"] == "trading.toml [market]"


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"TRADING_POSTGRES_URL": "postgresql://me:canary@host/db"})
    assert "canary" not in str(settings.describe())
    with pytest.raises(BadSetting) as refused:
        load_settings(tmp_path, {"TRADING_POSTGRES_URL": "mysql://me:canary@host/db"})
    assert "canary" not in str(refused.value)


WRONG = [
    ("TRADING_SYMBOLS", ""),
    ("TRADING_SYMBOLS", ","),
    ("TRADING_SYMBOLS", "../../etc"),
    ("TRADING_SYMBOLS", "A:B"),
    ("TRADING_SYMBOLS", "A\0B"),
    ("TRADING_SYMBOLS", "A" * 10_000),
    ("TRADING_SYMBOLS", "BTCUSDT,BTCUSDT"),
    ("TRADING_SYMBOLS", "BTC USDT"),
    ("TRADING_SYMBOLS", ",".join(f"C{n}USDT" for n in range(26))),
    ("TRADING_SEED", "-1"),
    ("TRADING_SEED", "seven"),
    ("TRADING_SEED", "1.5"),
    ("TRADING_PORT", "0"),
    ("TRADING_PORT", "-3000"),
    ("TRADING_PORT", "65536"),
    ("TRADING_PORT", "http"),
    ("TRADING_PORT", ""),
    ("TRADING_POSTGRES_URL", "mysql://host/db"),
    ("TRADING_POSTGRES_URL", "host:5432"),
    ("TRADING_POSTGRES_URL", "postgresql://host:99999/db"),
    ("TRADING_POSTGRES_URL", "postgresql://"),
    ("TRADING_REDIS_URL", "http://host"),
    ("TRADING_REDIS_URL", "localhost"),
    ("TRADING_QDRANT_URL", "edge:///x"),
    ("TRADING_QDRANT_URL", "http://"),
    ("TRADING_EXCHANGE_REST_URL", "ws://host"),
    ("TRADING_EXCHANGE_REST_URL", "ftp://host"),
    ("TRADING_EXCHANGE_WS_URL", "https://host"),
    ("TRADING_EXCHANGE_WS_URL", "stream"),
    ("LMDB_PATH", "a\0b"),
    ("LMDB_MAX_SIZE_GB", "0"),
    ("LMDB_MAX_SIZE_GB", "-1"),
    ("LMDB_MAX_SIZE_GB", "many"),
    ("LMDB_RETENTION_DAYS", "0"),
    ("SNAPSHOT_INTERVAL_MINUTES", "0"),
    ("SNAPSHOT_INTERVAL_MINUTES", "7"),
    ("BATCH_SIZE", "0"),
    ("BATCH_SIZE", "100000"),
    ("RAG_TOP_K", "-5"),
    ("RAG_LOOKBACK_DAYS", "-90"),
    ("MAX_REJECTED_SHARE", "30"),
    ("MAX_REJECTED_SHARE", "-0.1"),
    ("MAX_REJECTED_SHARE", "nan"),
]


@pytest.mark.parametrize(("variable", "value"), WRONG)
def test_a_wrong_setting_is_refused_by_name_at_once(tmp_path: Path, variable: str, value: str) -> None:
    key = next(setting.key for setting in SETTINGS if setting.variable == variable)
    started = time.monotonic()
    with pytest.raises(BadSetting) as refused:
        load_settings(tmp_path, {variable: value})
    assert key in refused.value.message
    assert variable in refused.value.message
    assert refused.value.hint
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ui]\nprot = 1\n", "prot"),
        ("[iu]\nport = 1\n", "port"),
        ("port = 1\n", "port"),
        ("[ui\n", "TOML"),
        ("[ui]\nport = true\n", "port"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "trading.toml").write_text(text)
    with pytest.raises(BadSetting, match=named):
        load_settings(tmp_path, {})
