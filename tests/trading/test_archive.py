"""Archive files: every form gives the same trades, and whatever cannot be right is refused by its line."""

import gzip

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorded import recorded
from trading.errors import TradingError
from trading.market.archive import (
    KLINE_NAMES,
    TRADE_NAMES,
    ArchiveFile,
    BadField,
    BetweenSteps,
    MixedUnits,
    NotInOrder,
    OutsidePeriod,
    TradeForm,
    UnknownColumns,
    archive_of_trades,
    klines_of_archive,
    trades_of_archive,
)
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, Timeframe
from trading.market.trade import TRADE_SCHEMA, AggTrade, trades_frame

INSTRUMENT = Instrument("sim", "XRPETH", "XRP", "ETH", 8, 2)
FILE = ArchiveFile("XRPETH", "2019-10-12")
START_MS = 1_570_838_400_000
FORMS = [TradeForm(header, best, unit) for header in (False, True) for best in (False, True) for unit in ("ms", "us")]
NAMES = ",".join(TRADE_NAMES)
LINE = "700,0.00148021,478.00000000,900,901,1570838401503,True,True"


def lines(*texts: str) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


@st.composite
def days(draw: st.DrawFn) -> tuple[Instrument, pl.DataFrame]:
    instrument = Instrument("sim", "XRPETH", "XRP", "ETH", draw(st.integers(0, 8)), draw(st.integers(0, 8)))
    largest = 10 ** (9 + min(instrument.price_decimals, instrument.quantity_decimals))
    trades, number = [], draw(st.integers(0, 2**50))
    for _ in range(draw(st.integers(0, 12))):
        fill, fills = draw(st.integers(0, 2**50)), draw(st.integers(0, 9))
        price, quantity = draw(st.integers(1, largest)), draw(st.integers(0, largest))
        time_ms = START_MS + draw(st.integers(0, DAY_MS - 1))
        trades.append(AggTrade(number, price, quantity, fill, fill + fills, time_ms, draw(st.booleans())))
        number += draw(st.sampled_from([1, 1, 1, 1000]))
    return instrument, trades_frame(trades)


@given(day=days(), form=st.sampled_from(FORMS))
def test_what_is_written_in_any_form_is_read_back(day: tuple[Instrument, pl.DataFrame], form: TradeForm) -> None:
    instrument, trades = day
    content = archive_of_trades(trades, instrument, form)
    assert trades_of_archive(content, instrument, FILE).equals(trades)
    assert trades_of_archive(content.replace(b"\n", b"\r\n"), instrument, FILE).equals(trades)


@given(content=st.binary(max_size=200) | st.text(alphabet="0123456789.,\nTrue", max_size=200).map(str.encode))
def test_no_bytes_do_anything_but_be_read_or_refused(content: bytes) -> None:
    for damaged in (content, lines(LINE) + content):
        try:
            assert trades_of_archive(damaged, INSTRUMENT, FILE).schema == pl.Schema(TRADE_SCHEMA)
        except TradingError as error:
            assert "XRPETH-aggTrades-2019-10-12" in error.message


def test_a_days_file_holds_what_rest_gave() -> None:
    content = gzip.decompress(recorded("aggtrades/XRPETH-aggTrades-2019-10-12.csv.gz").read_bytes())
    trades = trades_of_archive(content, INSTRUMENT, FILE)
    rest = pl.read_ndjson(
        gzip.decompress(recorded("aggtrades/XRPETH_spot_20191011_20191013.rest.jsonl.gz").read_bytes())
    )
    rest = rest.filter((pl.col("T") >= START_MS) & (pl.col("T") < START_MS + DAY_MS)).sort("a")
    assert len(trades) == 4_134
    assert trades["agg_trade_id"].to_list() == rest["a"].to_list()
    assert trades["time_ms"].to_list() == rest["T"].to_list()
    assert trades["price"].to_list() == [INSTRUMENT.ticks(text) for text in rest["p"]]
    assert trades["quantity"].to_list() == [INSTRUMENT.lots(text) for text in rest["q"]]
    assert trades["buyer_is_maker"].to_list() == rest["m"].to_list()
    assert archive_of_trades(trades, INSTRUMENT, TradeForm()) == content


def test_the_futures_form_is_read_and_a_file_over_midnight_is_refused() -> None:
    name = "aggtrades/BTCUSDT_spot_20240808_20240809_derived.csv.gz"
    content = gzip.decompress(recorded(name).read_bytes())
    bitcoin = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
    with pytest.raises(OutsidePeriod, match="is not in 2024-08-08"):
        trades_of_archive(content, bitcoin, ArchiveFile("BTCUSDT", "2024-08-08"))
    trades = trades_of_archive(content, bitcoin, ArchiveFile("BTCUSDT", "2024-08"))
    assert len(trades) == 11_349
    assert archive_of_trades(trades, bitcoin, TradeForm(header=True, best_match=False)) == content


def test_microseconds_are_cut_to_the_millisecond_in_which_they_lie() -> None:
    text = lines(LINE.replace("1570838401503", "1570838401503999"))
    assert trades_of_archive(text, INSTRUMENT, FILE)["time_ms"].to_list() == [1_570_838_401_503]


@pytest.mark.parametrize("content", [b"", b"\n", lines(NAMES)], ids=["nothing", "a line's end", "names alone"])
def test_a_day_without_a_trade_is_empty(content: bytes) -> None:
    assert trades_of_archive(content, INSTRUMENT, FILE).is_empty()


def test_a_missing_id_is_no_fault_of_form() -> None:
    text = lines(LINE, LINE.replace("700", "709"))
    assert trades_of_archive(text, INSTRUMENT, FILE)["agg_trade_id"].to_list() == [700, 709]


# Rows 45, 46 and 47 of the bad inputs, and what else a file can be.
BAD = {
    "six columns": (lines(LINE.rsplit(",", 2)[0]), UnknownColumns, "6 columns, not 7 or 8"),
    "a web page": (b"<html>\n<body>", UnknownColumns, "1 columns"),
    "other names": (lines(NAMES.replace("price", "prix"), LINE), UnknownColumns, "column 'prix'"),
    "a longer line": (lines(LINE, LINE.replace("700", "701") + ",1"), UnknownColumns, "no table of 8 columns"),
    "a shorter line": (lines(LINE, "701,0.00148021,478"), BadField, "line 2: first_trade_id is absent"),
    "an end cut off": (lines(LINE, LINE.replace("700", "701"))[:-4], BadField, "line 2: is_best_match 'T'"),
    "a blank price": (lines(LINE.replace("0.00148021", "")), BadField, "line 1: price is absent"),
    "a blank line": (lines(LINE, "", LINE.replace("700", "701")), BadField, "line 2: agg_trade_id is absent"),
    "a price in words": (lines(NAMES, LINE.replace("0.00148021", "NaN")), BadField, "line 2: price 'NaN' cannot be"),
    "a huge price": (lines(LINE.replace("0.00148021", "1e999")), BadField, "price '1e999'"),
    "no price": (lines(LINE.replace("0.00148021", "0.00000000")), BadField, "price '0.00000000'"),
    "a negative quantity": (lines(LINE.replace("478", "-478")), BadField, "quantity '-478.00000000'"),
    "a price between ticks": (lines(LINE.replace("0.00148021", "0.001480211")), BetweenSteps, "no multiple of 10\\^-8"),
    "a lot between lots": (lines(LINE.replace("478.00", "478.001")), BetweenSteps, "no multiple of 10\\^-2"),
    "beyond any market": (lines(LINE.replace("478", "9" * 18)), BetweenSteps, "line 1: quantity"),
    "a negative id": (lines("-" + LINE), BadField, "agg_trade_id '-700'"),
    "an id with a point": (lines(LINE.replace("700", "700.0")), BadField, "agg_trade_id '700.0'"),
    "fills that run back": (lines(LINE.replace("901", "899")), BadField, "last_trade_id '899'"),
    "an unknown side": (lines(LINE.replace("True", "yes", 1)), BadField, "is_buyer_maker 'yes'"),
    "an id twice": (lines(LINE, LINE.replace("478", "479")), NotInOrder, "line 2: agg_trade_id 700 comes twice"),
    "ids that go back": (lines(LINE, LINE.replace("700", "699")), NotInOrder, "line 2: .* 699 comes after 700"),
    "mixed units": (lines(LINE, LINE.replace("700", "701").replace("1503", "1503000")), MixedUnits, "line 2: .* not in ms"),
    "seconds": (lines(LINE.replace("1570838401503", "1570838401")), MixedUnits, "neither in milli"),
    "nanoseconds": (lines(LINE.replace("1503", "1503000000")), BadField, "transact_time"),
    "another day": (lines(LINE.replace("1570838401503", "1570924800000")), OutsidePeriod, "2019-10-13"),
    "not UTF-8": (lines(LINE) + b"\xff\xfe", TradingError, "2019-10-12"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "error", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_by_its_line(content: bytes, error: type[TradingError], said: str) -> None:
    with pytest.raises(error, match=said):
        trades_of_archive(content, INSTRUMENT, FILE)


def test_klines_are_read_as_published() -> None:
    for day, rows in (("2021-11-27", 10), ("2021-11-28", 11)):
        content = recorded(f"klines/binance_vision_format/ADABTC-1m-{day}.csv").read_bytes()
        file = ArchiveFile("ADABTC", day, Timeframe.M1)
        bars = klines_of_archive(content, file)
        assert len(bars) == rows
        assert klines_of_archive(lines(",".join(KLINE_NAMES)) + content, file).equals(bars)
    assert bars["open_time"][0] == 1_638_057_600_000
    assert bars.row(0, named=True).items() >= {"close": 0.00002818, "volume": 85342.7, "trade_count": 96}.items()


BAR = "1638057600000,0.2,0.3,0.1,0.2,85342.70,1638057659999,2.4,96,3.0,1.0,0"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (lines(BAR.replace("0.3", "0.15")), BadField),
        (lines(BAR.replace("85342.70", "nan")), BadField),
        (lines(BAR.replace("1638057600000", "1638057601000")), OutsidePeriod),
        (lines(BAR.replace("659999", "959999")), OutsidePeriod),
        (lines(BAR, BAR), NotInOrder),
        (lines(BAR.rsplit(",", 1)[0]), UnknownColumns),
    ],
    ids=["high below close", "no number", "off the grid", "a longer bar", "twice", "eleven columns"],
)
def test_bad_klines_are_refused(content: bytes, error: type[TradingError]) -> None:
    with pytest.raises(error):
        klines_of_archive(content, ArchiveFile("ADABTC", "2021-11-28", Timeframe.M1))


@pytest.mark.parametrize(
    ("file", "path"),
    [
        (FILE, "data/spot/daily/aggTrades/XRPETH/XRPETH-aggTrades-2019-10-12.zip"),
        (
            ArchiveFile("币安人生USDT", "2024-12"),
            "data/spot/monthly/aggTrades/币安人生USDT/币安人生USDT-aggTrades-2024-12.zip",
        ),
        (ArchiveFile("A", "2024-02-29", Timeframe.H1), "data/spot/daily/klines/A/1h/A-1h-2024-02-29.zip"),
    ],
)
def test_a_file_and_its_path_are_each_others_inverse(file: ArchiveFile, path: str) -> None:
    assert file.path == path
    assert ArchiveFile.of_path(path) == file


@pytest.mark.parametrize(
    "path",
    [
        "data/spot/daily/aggTrades/A/A-aggTrades-2023-02-29.zip",
        "data/spot/daily/aggTrades/A/A-aggTrades-2024-02.zip",
        "data/spot/daily/aggTrades/A/B-aggTrades-2024-02-20.zip",
        "data/spot/daily/aggTrades/../A-aggTrades-2024-02-20.zip",
        "data/spot/daily/klines/A/7m/A-7m-2024-02-20.zip",
        "data/spot/daily/klines/A/A-aggTrades-2024-02-20.zip",
    ],
)
def test_what_is_no_path_of_the_layout_names_no_file(path: str) -> None:
    assert ArchiveFile.of_path(path) is None


def test_spot_files_have_microseconds_since_2025() -> None:
    assert [TradeForm.of_spot(p).unit for p in ("2024-12-31", "2024-12", "2025-01", "2025-01-01")] == [
        "ms",
        "ms",
        "us",
        "us",
    ]
