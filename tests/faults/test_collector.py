"""The real collector process against the simulated exchange: whatever goes wrong, nothing is lost and nothing twice."""

import json
import os
import signal
from pathlib import Path

import pytest
import trustme
from rocksdict import Options, Rdict

from resources.home import Home
from resources.journal import TradeJournal
from tests.faults.processes import (
    END_MS,
    LATE_MS,
    START_MS,
    SYMBOLS,
    Collecting,
    assert_exactly_the_market,
    collected,
    collector,
    ended,
    exchange,
)


def test_all_trades_of_two_hours_are_kept_and_proven_from_the_first_moment(tmp_path: Path) -> None:
    with exchange(tmp_path) as port:
        status = collected(tmp_path / "journal", port)
    assert_exactly_the_market(tmp_path / "journal")
    assert status["bad_frames"] == {}


@pytest.mark.parametrize(
    "faults",
    [
        {"drop": 0.05},
        {"duplicate": 0.2},
        {"malformed": 0.05},
        {"disconnect": 0.0008},
        {"drop": 0.02, "rest_refused": 0.2},
    ],
    ids=str,
)
def test_a_bad_connection_loses_nothing(tmp_path: Path, faults: dict[str, float]) -> None:
    with exchange(tmp_path, "--faults", json.dumps(faults | {"seed": 3})) as port:
        status = collected(tmp_path / "journal", port)
    assert_exactly_the_market(tmp_path / "journal")
    seen = {"drop": "repaired", "duplicate": "duplicates", "malformed": "bad_frames", "disconnect": "reconnects"}
    assert status[seen[next(iter(faults))]]


def test_a_deleted_batch_is_fetched_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with exchange(tmp_path) as port:
        collected(folder, port)
        with TradeJournal.write(folder) as journal:
            seconds = journal.seconds("BTCUSDT")
            for second_ms in (seconds[0], seconds[100], seconds[-1]):
                journal.delete_batch("BTCUSDT", second_ms)
        assert collected(folder, port)["new_batches"] == 3
    assert_exactly_the_market(folder)


def test_a_damaged_batch_is_set_aside_and_fetched_again(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with exchange(tmp_path) as port:
        collected(folder, port)
        with TradeJournal.write(folder) as journal:
            second_ms = journal.seconds("BTCUSDT")[100]
        live = Rdict(str(folder / "live"), Options(raw_mode=True))
        batches, key = live.get_column_family("trades"), f"trades:BTCUSDT:{second_ms:013d}".encode()
        damaged = batches[key][:-1] + b"?"
        batches[key] = damaged
        batches.close()
        live.close()
        assert collected(folder, port)["new_batches"] == 1
    assert_exactly_the_market(folder)
    with TradeJournal.read(folder) as journal:
        ((kept_ms, reason, content),) = journal.quarantined()
    assert (kept_ms, content) == (second_ms, damaged)
    assert "BTCUSDT" in reason


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM, signal.SIGINT)])
def test_a_collector_told_to_stop_more_than_once_still_flushes(
    tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    folder = tmp_path / "journal"
    reading, writing = os.pipe()
    with (
        exchange(tmp_path, "--speed", "600", end_ms=LATE_MS) as port,
        collector(folder, port, "--ack-fd", str(writing), pass_fds=[writing]) as process,
    ):
        os.close(writing)
        with os.fdopen(reading) as acks:
            acks.readline()
            for number in signals:
                process.send_signal(number)
            acknowledged = acks.read().splitlines()
        assert process.wait(30) == 0
    with TradeJournal.read(folder) as journal:
        for line in acknowledged:
            symbol, last_id = line.split()
            assert int(last_id) in journal.trades(symbol, START_MS, LATE_MS)["agg_trade_id"]
        assert all(journal.verify(name) == [] for name in SYMBOLS)


def test_a_second_collector_leaves_the_journal_to_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with (
        exchange(tmp_path, "--speed", "1") as port,
        TradeJournal.write(folder),
        collector(folder, port, log=tmp_path / "log") as process,
    ):
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert str(os.getpid()) in json.loads(output)["held"]
    errors = (tmp_path / "log").read_text()
    assert "JournalHeld" in errors and str(os.getpid()) in errors


def test_a_reader_beside_a_running_collector_sees_what_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    reading, writing = os.pipe()
    with (
        exchange(tmp_path, "--speed", "600", end_ms=LATE_MS) as port,
        collector(folder, port, "--ack-fd", str(writing), pass_fds=[writing]) as process,
    ):
        os.close(writing)
        with os.fdopen(reading) as acks:
            symbol, _, last_id = acks.readline().strip().partition(" ")
            with TradeJournal.read(folder) as journal:
                assert int(last_id) in journal.trades(symbol, START_MS, END_MS)["agg_trade_id"]
            process.terminate()
            acks.read()
        assert process.wait(30) == 0
    with TradeJournal.read(folder) as journal:
        assert all(journal.verify(name) == [] for name in SYMBOLS)


def test_a_collector_whose_journal_lies_in_a_home_shares_its_request_weight(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    with exchange(tmp_path) as port:
        collected(home.rocksdb_dir, port)
        spent = json.loads(home.rest_budget_file.read_bytes())
    assert list(spent) == [f"http://127.0.0.1:{port}"]


def test_over_tls_a_collector_collects_and_repairs_with_the_right_authority_and_refuses_any_other(
    tmp_path: Path,
) -> None:
    ours, other, folder = trustme.CA(), trustme.CA(), tmp_path / "journal"
    issued, certificate, key = ours.issue_cert("127.0.0.1"), tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with exchange(tmp_path, *options, "--faults", json.dumps({"drop": 0.05, "seed": 3})) as port:

        def collect(authority: trustme.CA) -> Collecting:
            file = tmp_path / "authority.pem"
            authority.cert_pem.write_to_path(file)
            environment = os.environ | {"SSL_CERT_FILE": str(file)}
            until, log = ["--until-ms", str(END_MS)], tmp_path / "log"
            return collector(folder, port, *until, tls="s", log=log, env=environment)

        with collect(other) as process:
            assert process.wait(60) == 1
        errors = (tmp_path / "log").read_text()
        assert "ExchangeUntrusted" in errors and "CERTIFICATE_VERIFY_FAILED" in errors and "SSL_CERT_FILE" in errors
        with collect(ours) as process:
            final = ended(process)
    assert_exactly_the_market(folder)
    assert final["repaired"]
