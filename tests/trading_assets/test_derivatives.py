"""The derivatives asset, whole: a futures exchange on loopback, a real database, and Dagster between them."""

import json
import logging
import shutil
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from resources.home import Home
from resources.journal import TradeJournal
from resources.stores import Stores, open_stores
from resources.timescale.derivatives import coverage, derivatives_as_of
from resources.wiring import ExchangeClient, MarketDatabase, TradeJournalReader
from tests.loopback import Answer, Asked, Loopback, loopback
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.stream.events import MarkPrice
from trading_assets.checks import derivatives_as_kept
from trading_assets.derivatives import derivatives
from trading_assets.partitions import day_key, range_tags, symbols

DAY = 1_700_006_400_000 // DAY_MS * DAY_MS
SYMBOL = "BTCUSDT"


class Futures:
    """A contract that was listed on the day before `DAY`, on an exchange with a clock of its own."""

    def __init__(self) -> None:
        self.now_ms = DAY + DAY_MS + 10 * MINUTE_MS
        self.funding_rate = "0.00010000"
        self.broken = False

    def answer(self, asked: Asked) -> Answer:
        if self.broken:
            return 404, "404: Not Found", {}
        call = asked.path.rsplit("/", 1)[-1]
        if asked.parameters.get("symbol", SYMBOL) != SYMBOL:
            return 400, '{"code":-1121,"msg":"Invalid symbol."}', {}
        return 200, json.dumps(self.said(call, asked.parameters)), {}

    def said(self, call: str, query: dict[str, Any]) -> Any:
        lo, hi = int(query.get("startTime", 0)), min(int(query.get("endTime", 0)), self.now_ms)
        name = {"symbol": SYMBOL}
        if call == "time":
            return {"serverTime": self.now_ms}
        if call == "fundingRate":
            times = range(DAY - DAY_MS + 5, hi + 1, 8 * HOUR_MS)
            return [
                name | {"fundingTime": t, "fundingRate": self.funding_rate, "markPrice": "60000.5"}
                for t in times
                if t >= lo
            ]
        if call == "openInterestHist":
            times = [t for t in range(DAY, hi + 1, 5 * MINUTE_MS) if t >= lo]
            return [
                name | {"timestamp": t, "sumOpenInterest": "80000.123", "sumOpenInterestValue": "4800007380"}
                for t in times
            ]
        if call == "openInterest":
            return name | {"openInterest": "80001.5", "time": self.now_ms - 3}
        assert call == "premiumIndex"
        prices = {"markPrice": "60001.25", "indexPrice": "60000.75", "lastFundingRate": "0.0002"}
        return name | prices | {"nextFundingTime": self.now_ms + HOUR_MS, "time": self.now_ms - 1}


@pytest.fixture(scope="module")
def futures() -> Futures:
    return Futures()


@pytest.fixture(scope="module")
def server(futures: Futures) -> Iterator[Loopback]:
    with loopback(futures.answer) as running:
        yield running


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, server: Loopback) -> Iterator[Stores]:
    path = tmp_path_factory.mktemp("home")
    path.chmod(0o755)
    Home(path).create("simulated", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADING_FUTURES_REST_URL", server.root)
        with open_stores(path) as opened:
            opened.market.register([Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in (SYMBOL, "NOPEUSDT")])
            yield opened


def materialized(
    instance: dg.DagsterInstance, stores: Stores, first_ms: int, last_ms: int, symbol: str = SYMBOL
) -> dg.ExecuteInProcessResult:
    home = str(stores.home.path)
    instance.add_dynamic_partitions(symbols.name or "", [SYMBOL, "NOPEUSDT"])
    done = dg.materialize(
        [derivatives],
        instance=instance,
        tags=range_tags(symbol, day_key(first_ms), day_key(last_ms)),
        resources={
            "market": MarketDatabase(home=home),
            "exchange": ExchangeClient(home=home),
            "journal": TradeJournalReader(home=home),
        },
    )
    assert done.success
    return done


def run(stores: Stores, first_ms: int, last_ms: int, symbol: str = SYMBOL) -> dict[str, dict[str, Any]]:
    """Materialize days and return each partition's metadata."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = materialized(instance, stores, first_ms, last_ms, symbol)
        return {
            (m.partition or "").split("|")[0]: {name: value.value for name, value in m.metadata.items()}
            for m in done.asset_materializations_for_node("derivatives")
        }


def states(stores: Stores) -> dict[tuple[str, str], str]:
    return {(day_key(d.day_ms), d.kind): d.state for d in coverage(stores.market, SYMBOL)}


def test_days_are_kept_with_what_is_lacking_and_a_second_run_changes_nothing(stores: Stores, futures: Futures) -> None:
    found = run(stores, DAY - 2 * DAY_MS, DAY)
    before, listed, whole = (day_key(DAY - n * DAY_MS) for n in (2, 1, 0))
    assert [found[day]["dagster/partition_row_count"] for day in (before, listed, whole)] == [0, 3, 291]
    assert found[whole]["changed_postgres"] == 294
    assert found[whole]["coverage_open_interest"] == "available 1, empty 2"
    assert found[whole]["coverage_mark"] == "missing 3"
    picture = found[whole]["plot"]
    assert picture.startswith("![plot](data:image/png;base64,") and len(picture) < 80_000
    assert states(stores) == {
        (before, "funding"): "empty",
        (before, "open_interest"): "empty",
        (before, "mark"): "missing",
        (listed, "funding"): "available",
        (listed, "open_interest"): "empty",
        (listed, "mark"): "missing",
        (whole, "funding"): "available",
        (whole, "open_interest"): "available",
        (whole, "mark"): "missing",
    }
    futures.now_ms += MINUTE_MS
    assert run(stores, DAY - 2 * DAY_MS, DAY)[whole]["changed_postgres"] == 0
    assert derivatives_as_kept(stores, [SYMBOL]) is None


def test_today_is_pending_and_holds_what_is_said_now(stores: Stores, futures: Futures) -> None:
    today = DAY + DAY_MS
    found = run(stores, today, today)[day_key(today)]
    assert found["coverage_mark"] == "pending 1"
    rows = derivatives_as_of(stores.market, SYMBOL, today, today + DAY_MS)
    mark = rows.filter(rows["kind"] == "mark").row(0, named=True)
    assert (mark["mark_price"], mark["index_price"], mark["funding_rate"]) == (60001.25, 60000.75, 0.0002)
    assert (mark["time_ms"], mark["known_at_ms"]) == (futures.now_ms - 1, futures.now_ms)
    assert 80001.5 in rows["open_interest"].to_list()


def test_mark_prices_off_the_wire_are_the_last_of_each_minute_and_what_did_not_come_is_missing(
    stores: Stores, futures: Futures
) -> None:
    """Ten hours of a day: a minute in the middle lacks its last seconds, and an hour lacks all of them."""
    day = DAY - 5 * DAY_MS
    hole = range(day + 5 * HOUR_MS, day + 6 * HOUR_MS, 1000)
    times = [t for t in range(day, day + 10 * HOUR_MS, 1000) if t not in hole]
    times = [t for t in times if not day + 2 * HOUR_MS + 30_000 <= t < day + 2 * HOUR_MS + MINUTE_MS]
    marks = [MarkPrice(t, 60_000.0 + (t - day) / 1000, 60_000.5, None if t % 2000 else 0.0001, None) for t in times]
    with TradeJournal.write(stores.home.journal_dir("usdm")) as journal:
        journal.append_marks({SYMBOL: marks})
    try:
        found = run(stores, day, day)[day_key(day)]
        assert found["coverage_mark"] == "degraded 1"
        rows = derivatives_as_of(stores.market, SYMBOL, day, day + DAY_MS)
        held = rows.filter(rows["kind"] == "mark")
        minutes = {(t - day) // MINUTE_MS: t for t in times}
        assert held["time_ms"].to_list() == list(minutes.values()) and len(held) == 9 * 60
        assert held["mark_price"].to_list() == [60_000.0 + (t - day) / 1000 for t in minutes.values()]
        assert minutes[2 * 60] == day + 2 * HOUR_MS + 29_000 and 5 * 60 not in minutes
        assert set(held["funding_rate"].to_list()) == {None}  # the last second of a minute is odd
        (state,) = [d for d in coverage(stores.market, SYMBOL) if (d.kind, d.day_ms) == ("mark", day)]
        assert (state.values, state.longest_gap_ms) == (9 * 60, 14 * HOUR_MS + 1_000)
        assert run(stores, day, day)[day_key(day)]["changed_postgres"] == 0
        assert derivatives_as_kept(stores, [SYMBOL]) is None
    finally:
        shutil.rmtree(stores.home.journal_dir("usdm"))


def test_what_the_exchange_says_otherwise_later_is_a_second_version(stores: Stores, futures: Futures) -> None:
    run(stores, DAY, DAY)
    earlier = futures.now_ms
    futures.now_ms += MINUTE_MS
    futures.funding_rate = "0.00020000"
    assert run(stores, DAY, DAY)[day_key(DAY)]["changed_postgres"] == 3

    def rates(known_by: int | None) -> set[float]:
        rows = derivatives_as_of(stores.market, SYMBOL, DAY, DAY + DAY_MS, known_by)
        return set(rows.filter(rows["kind"] == "funding")["funding_rate"])

    assert (rates(earlier), rates(None), rates(DAY)) == ({0.0001}, {0.0002}, set())
    assert derivatives_as_kept(stores, [SYMBOL]) is None


def test_what_was_once_kept_or_known_to_be_empty_outlasts_the_thirty_days(stores: Stores, futures: Futures) -> None:
    run(stores, DAY - DAY_MS, DAY)
    before = states(stores)
    now_ms = futures.now_ms
    futures.now_ms += 60 * DAY_MS
    try:
        run(stores, DAY - DAY_MS, DAY)
    finally:
        futures.now_ms = now_ms
    assert states(stores) == before


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("DELETE FROM md.derivative WHERE kind = 'open_interest' AND time = to_timestamp($1)", "287 values, 288"),
        (
            "UPDATE md.derivative SET mark_price = 1 WHERE kind = 'funding' AND time::date = to_timestamp($1)::date",
            "value",
        ),
        ("UPDATE md.derivative_coverage SET n_values = 5 WHERE kind = 'funding' AND day = to_timestamp($1)::date", "5"),
    ],
)
def test_the_check_turns_red_and_a_run_makes_it_green(stores: Stores, damage: str, finding: str) -> None:
    run(stores, DAY, DAY)
    stores.market.execute(damage, DAY / 1000)
    assert finding in (derivatives_as_kept(stores, [SYMBOL]) or "")
    run(stores, DAY, DAY)
    assert derivatives_as_kept(stores, [SYMBOL]) is None


@pytest.mark.parametrize(
    "row",
    [
        "'funding', to_timestamp($2 + 1), to_timestamp($2), NULL, 0.1",
        "'funding', to_timestamp($2), to_timestamp($2), 5, NULL",
        "'open_interest', to_timestamp($2), to_timestamp($2), -1, NULL",
        "'open_interest', to_timestamp($2), to_timestamp($2), 'NaN', NULL",
        "'funding', to_timestamp($2), to_timestamp($2), NULL, 'NaN'",
        "'liquidation', to_timestamp($2), to_timestamp($2), 5, 0.1",
    ],
)
def test_the_database_refuses_what_cannot_be(stores: Stores, row: str) -> None:
    with pytest.raises(Exception, match="violates check constraint"):
        stores.market.execute(
            "INSERT INTO md.derivative (symbol_id, kind, time, known_at, open_interest, funding_rate) "
            f"SELECT symbol_id, {row} FROM md.symbol WHERE name = $1",
            SYMBOL,
            DAY / 1000,
        )


def test_a_symbol_without_a_contract_and_a_root_without_futures_write_nothing_and_say_so(
    stores: Stores, futures: Futures
) -> None:
    assert "Invalid symbol" in run(stores, DAY, DAY, "NOPEUSDT")[day_key(DAY)]["absent"]
    rows = stores.market.fetch("SELECT count(*) AS n, sum(known_at - time) AS s FROM md.derivative")
    futures.broken = True
    try:
        found = run(stores, DAY, DAY)[day_key(DAY)]
    finally:
        futures.broken = False
    assert "no call time of USDⓈ-M" in found["absent"]
    assert found["dagster/partition_row_count"] == 294
    assert stores.market.fetch("SELECT count(*) AS n, sum(known_at - time) AS s FROM md.derivative") == rows


def test_without_a_futures_root_nobody_is_asked(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    from resources.derivatives import FuturesExchange

    monkeypatch.setitem(stores.__dict__, "futures", FuturesExchange(""))
    found = run(stores, DAY, DAY)[day_key(DAY)]
    assert found["absent"] == "no futures root is set; set TRADING_FUTURES_REST_URL"
    assert found["changed_postgres"] == 0


def logged(stores: Stores, day: int) -> tuple[list[str], str]:
    """Materialize a day and return the warnings and errors of the run, and the coverage of its mark prices."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = materialized(instance, stores, day, day)
        entries = instance.all_logs(done.run_id)
        said = [f"{logging.getLevelName(e.level)} {e.user_message}" for e in entries if e.level >= logging.WARNING]
        (made,) = done.asset_materializations_for_node("derivatives")
        return said, str(made.metadata["coverage_mark"].value)


@pytest.fixture
def contracts(stores: Stores) -> Iterator[TradeJournal]:
    """The contracts' journal in the hands of a collector that answers nobody."""
    directory = stores.home.journal_dir("usdm")
    try:
        with TradeJournal.write(directory) as journal:
            journal.append_marks({SYMBOL: [MarkPrice(DAY - 7 * DAY_MS, 60_000.0, 60_000.5, None, None)]})
            yield journal
    finally:
        shutil.rmtree(directory)


def test_mark_prices_of_an_old_checkpoint_are_taken_and_their_age_is_said(
    stores: Stores, contracts: TradeJournal
) -> None:
    contracts.checkpoint()
    said, coverage_mark = logged(stores, DAY - 7 * DAY_MS)
    assert coverage_mark == "degraded 1"
    assert len(said) == 1 and said[0].startswith("WARNING") and "checkpoint" in said[0]


def test_what_is_known_without_the_contracts_journal_is_kept_when_that_cannot_be_read(
    stores: Stores, contracts: TradeJournal
) -> None:
    said, coverage_mark = logged(stores, DAY - 6 * DAY_MS)
    assert coverage_mark == "missing 1"
    assert len(said) == 1 and said[0].startswith("ERROR no mark prices off the wire: ")
