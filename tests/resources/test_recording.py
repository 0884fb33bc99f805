"""A folder of recorded trades and klines as the simulated exchange serves it."""

import gzip
import io
import json
from pathlib import Path

import polars as pl
import pytest

from resources.simulator.recording import BadRecording, Recording
from trading.market.timeframe import MINUTE_MS, Timeframe

START = 1_570_752_000_000
TRADES = [(700 + n, f"{100 + n}.50", "2.125", 9_000 + n, 9_000 + n, START + n * 20_000, n % 2 == 0) for n in range(30)]


def archive(trades: list[tuple], scale: int = 1, last: str | None = "True", header: str = "") -> bytes:
    rows = [(*t[:5], t[5] * scale, str(t[6]), *([last] if last else [])) for t in trades]
    return (header + "".join(",".join(map(str, row)) + "\n" for row in rows)).encode()


def rest(trades: list[tuple]) -> bytes:
    return "".join(json.dumps(dict(zip("apqflTm", t, strict=True)) | {"M": True}) + "\n" for t in trades).encode()


HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"


def recorded(folder: Path, name: str, content: bytes) -> Recording:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return Recording(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("aggTrades/XRPETH.csv", archive(TRADES)),
        ("aggTrades/XRPETH-aggTrades-2019-10-11.csv.gz", archive(TRADES)),
        ("aggTrades/XRPETH-aggTrades-2025-01-01.csv", archive(TRADES, scale=1000)),
        ("aggTrades/XRPETH.csv", archive(TRADES, last=None, header=HEADER)),
        ("aggTrades/XRPETH_spot.rest.jsonl.gz", rest(TRADES)),
        ("aggTrades/XRPETH.jsonl", rest(TRADES[::-1])),
        ("aggTrades/XRPETH.jsonl", rest(TRADES + TRADES[3:9])),
    ],
    ids=["archive", "gzipped", "microseconds", "header and 7 columns", "REST", "any order", "repeated rows"],
)
def test_every_form_gives_the_same_trades(tmp_path: Path, name: str, content: bytes) -> None:
    recording = recorded(tmp_path, name, content)
    trades = recording.trades("XRPETH", 0, 2 * START)
    assert trades["agg_trade_id"].to_list() == [t[0] for t in TRADES]
    assert trades["time_ms"].to_list() == [t[5] for t in TRADES]
    assert trades["price"].to_list() == [1005 + 10 * n for n in range(30)]
    assert trades["quantity"].to_list() == [2125] * 30
    assert recording.instrument("XRPETH").canonical == "XRP/ETH"


def test_files_of_one_symbol_are_joined(tmp_path: Path) -> None:
    recorded(tmp_path, "aggTrades/XRPETH-aggTrades-2019-10-11.csv", archive(TRADES[:12]))
    recording = recorded(tmp_path, "aggTrades/XRPETH-aggTrades-2019-10-12.csv", archive(TRADES[10:]))
    assert recording.trades_by_id("XRPETH", 0, 1000)["agg_trade_id"].to_list() == [t[0] for t in TRADES]


def test_klines_of_trades_leave_out_every_bar_that_a_missing_id_may_belong_to(tmp_path: Path) -> None:
    recording = recorded(tmp_path, "aggTrades/XRPETH.csv", archive([t for t in TRADES if t[0] not in (709, 710)]))
    minutes = recording.klines("XRPETH", Timeframe.M1, START, START + 10 * MINUTE_MS)
    # Trades 708 and 711 stand at 160 and 220 seconds: the lost ones lie between them.
    assert [(t - START) // MINUTE_MS for t in minutes["open_time"]] == [0, 1, 4, 5, 6, 7, 8, 9]
    longer = recording.klines("XRPETH", Timeframe.M3, START, START + 9 * MINUTE_MS)
    assert [(t - START) // MINUTE_MS for t in longer["open_time"]] == [6]


BARS = pl.DataFrame(
    {
        "open_time": [START, START + 3 * MINUTE_MS],
        "open": [1.0, 1.5],
        "high": [2.0, 2.0],
        "low": [0.5, 1.0],
        "close": [1.5, 1.25],
        "volume": [10.0, 0.5],
    }
)


def feather(bars: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    bars.write_ipc(stream)
    return stream.getvalue()


def test_klines_are_read_from_feather_and_csv_alike(tmp_path: Path) -> None:
    dated = BARS.with_columns(date=pl.from_epoch("open_time", "ms").dt.replace_time_zone("UTC")).drop("open_time")
    ours = [
        recorded(tmp_path / name, f"klines/XRP_ETH-3m.{name}", content).klines("XRPETH", Timeframe.M3, 0, 2 * START)
        for name, content in (("feather", feather(dated)), ("csv", BARS.write_csv().encode()))
    ]
    assert ours[0].equals(ours[1])
    assert ours[0]["high"].to_list() == [200, 200]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("aggTrades/XRPETH.csv", archive(TRADES)[:-40] + b"1,2\n", "damaged"),
        ("aggTrades/XRPETH.csv", b"1,2,3\n", "3 columns, not 7 or 8"),
        ("aggTrades/XRPETH.csv", b"", "holds no rows"),
        ("aggTrades/XRPETH.csv", archive([(*TRADES[0][:1], "much", *TRADES[0][2:])]), "no number"),
        ("aggTrades/XRPETH.csv", archive([*TRADES, (700, "1.5", *TRADES[0][2:])]), "trade 700 .* twice and differs"),
        ("aggTrades/XRPETH.jsonl", rest(TRADES)[:-30], "damaged"),
        ("aggTrades/XRPETH.jsonl", b'{"a": 1}\n', "line 1 lacks a field"),
        ("klines/XRPETH-3m.feather", feather(BARS)[:-200], "damaged"),
        ("klines/XRPETH-3m.feather", feather(BARS.with_columns(high=pl.lit(0.1))), "bars that cannot be, 2 of 2"),
        ("klines/XRPETH-3m.feather", feather(BARS.with_columns(close=pl.lit(float("nan")))), "bars that cannot be"),
        ("klines/XRPETH-3m.feather", feather(BARS.with_columns(pl.col("open_time") + 1000)), "off the grid"),
        ("klines/XRPETH-7m.feather", feather(BARS), "no timeframe"),
        ("klines/XRPETH-3m.feather", feather(BARS.drop("open_time")), "no column of times"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(BadRecording, match=said) as refused:
        recorded(tmp_path, name, content)
    assert "XRPETH" in refused.value.message


def test_a_truncated_archive_is_refused_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "aggTrades" / "XRPETH.csv.gz"
    file.parent.mkdir()
    file.write_bytes(gzip.compress(archive(TRADES))[:-20])
    with pytest.raises(BadRecording, match=r"XRPETH.csv.gz is damaged"):
        Recording(tmp_path)


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="holds no recording"):
        Recording(tmp_path)
    with pytest.raises(BadRecording, match="is no folder"):
        Recording(tmp_path / "absent")
