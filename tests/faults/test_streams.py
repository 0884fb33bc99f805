"""Streams that break in every way at a thousand trades a second: what was sent is stored, once."""

import json
import random
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from resources.journal import TradeJournal
from tests.faults.processes import (
    BUSY,
    SOAK,
    START_MS,
    SYMBOLS,
    Exchange,
    assert_exactly_the_market,
    busy_exchange,
    collector,
    ended,
    settled,
    status,
    until,
)
from tests.faults.proxy import Proxy, proxy

STORM_S = 3600 if SOAK else 30
CALM_S = 600 if SOAK else 90
"""Most time that a collector may need after the storm; pauses between connections grow to a minute."""

BAD_FRAMES = {"drop": 0.005, "duplicate": 0.02, "reorder": 0.02, "malformed": 0.001}
BAD_CALLS = {"rest_429": 0.05, "rest_5xx": 0.1, "rest_truncated": 0.05, "rest_html": 0.05, "rest_refused": 0.1}


def storm(
    port: Exchange, ws: Proxy, rest: Proxy, until_s: float, seed: int, weakened: psutil.Process
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """Let one fault follow another until a moment; return how often each struck, and memory and open files meanwhile."""
    chance, struck = random.Random(seed), dict[str, int]()

    def plan(**more: Any) -> None:
        port.set_faults(seed=chance.randrange(2**30), **(BAD_FRAMES | BAD_CALLS | more))

    faults = {
        "cut": lambda: ws.cut(),
        "reset": lambda: (ws.reset(), rest.reset()),
        "truncate": lambda: ws.truncate(chance.randrange(1, 5_000)),
        "half_open": lambda: ws.half_open(),
        "rest_half_open": lambda: rest.half_open(),
        "delay": lambda: (ws.delay(chance.random() / 4), rest.delay(chance.random() / 4)),
        "throttle": lambda: ws.throttle(20_000),
        "stall": lambda: plan(stalled=[f"{chance.choice(SYMBOLS).lower()}@aggTrade"]),
        "disconnect": lambda: plan(disconnect=0.001),
        "deaf": lambda: plan(half_open=0.001),
        "429": lambda: plan(rest_429=0.6, retry_after_s=2),
        "shutdown": lambda: plan(shutdown=0.001, shutdown_lead_s=0.5),
    }
    order: list[str] = []
    measured: list[tuple[int, int]] = []
    while (left_s := until_s - time.monotonic()) > 0:
        if not order:
            order = chance.sample(list(faults), len(faults))
        name = order.pop()
        plan()
        faults[name]()
        struck[name] = struck.get(name, 0) + 1
        time.sleep(min(left_s, chance.uniform(0.5, 3.0) if chance.random() < 0.9 else chance.uniform(6.0, 12.0)))
        ws.healthy()
        rest.healthy()
        measured.append((weakened.memory_info().rss, weakened.num_fds()))
    port.set_faults()
    return struck, measured


def test_what_was_sent_in_a_storm_is_stored_once(tmp_path: Path) -> None:
    end_ms, folder = START_MS + 1000 * STORM_S, tmp_path / "journal"
    with busy_exchange(tmp_path) as port, proxy(port) as ws, proxy(port) as rest:
        began = time.monotonic()
        with collector(folder, rest.port, "--until-ms", str(end_ms), ws=ws.port, log=tmp_path / "log") as process:
            until(lambda: settled(folder), process)
            struck, measured = storm(port, ws, rest, began + STORM_S, 29, psutil.Process(process.pid))
            calm = time.monotonic()
            final = ended(process, CALM_S)
        caught_up_s = time.monotonic() - calm
        frames = port.show("counts")["frames"]
    stored = assert_exactly_the_market(folder, end_ms, BUSY)
    shown = {
        name: final.get(name, 0)
        for name in ("reconnects", "replacements", "stalls", "duplicates", "repaired", "refused")
    }
    print(
        f"{STORM_S} s of {sum(struck.values())} faults {struck}; {frames} frames sent, {stored} trades stored once; "
        f"{shown}; "
        f"holes {final['holes']}, open for {final['hole_repair_ms']} ms; caught up {caught_up_s:.1f} s after the storm"
    )
    memory, files = zip(*measured[len(measured) // 3 :], strict=True)
    print(f"memory {memory[0] / 2**20:.0f} … {memory[-1] / 2**20:.0f} MiB, open files {min(files)} … {max(files)}")
    assert max(memory) < memory[0] + 64 * 2**20 and max(files) < min(files) + 50
    assert stored == STORM_S * BUSY * len(SYMBOLS)
    assert final["bad_frames"].keys() == {"not_json"}
    assert final["reconnects"] and final["duplicates"] and final["repaired"] and final["hole_repair_ms"]


@pytest.mark.parametrize(
    ("options", "faults", "delays_s"),
    [
        (["--lifetime-s", "1.5"], {}, [0.35, 0.0]),
        ([], {"seed": 5, "shutdown": 0.001, "shutdown_lead_s": 3.0}, [0.0, 0.35]),
    ],
    ids=["the age of a connection", "an announced end"],
)
def test_a_planned_change_of_connections_needs_nothing_from_rest(
    tmp_path: Path, options: list[str], faults: dict[str, Any], delays_s: list[float]
) -> None:
    """Every other connection is slower, as servers are; one that is announced to end is cut three seconds later."""
    folder = tmp_path / "journal"
    with (
        busy_exchange(tmp_path) as port,
        proxy(port) as ws,
        collector(folder, port, *options, ws=ws.port, log=tmp_path / "log") as process,
    ):
        ws.delay(*delays_s)
        until(lambda: settled(folder), process)
        before = status(folder)
        port.set_faults(**faults)
        time.sleep(600 if SOAK else 10)
        after = status(folder)
        port.set_faults()
        process.terminate()
        final = ended(process)
    changes = after["replacements"] - before.get("replacements", 0)
    print(
        f"{changes} planned changes, {after['trades'] - before['trades']} trades, {after['duplicates']} brought twice"
    )
    assert changes >= 3
    assert final["repaired"] == before["repaired"]
    assert final["fetches"] == before["fetches"]
    assert "reconnects" not in final
    assert_exactly_the_market(folder, None, BUSY)


def test_a_stream_that_never_comes_is_noticed_and_taken_from_rest_rows_28_and_30(tmp_path: Path) -> None:
    """As when a subscription is accepted and ignored: the connection answers, and the other stream is well."""
    folder, seconds = tmp_path / "journal", 20
    silent, well = SYMBOLS
    faults = json.dumps({"stalled": [f"{silent.lower()}@aggTrade"]})
    with busy_exchange(tmp_path, "--faults", faults) as port:
        options = ["--until-ms", str(START_MS + 1000 * seconds)]
        with collector(folder, port, *options, log=tmp_path / "log") as process:
            final = ended(process)
    assert final["stalls"] >= 1
    assert_exactly_the_market(folder, START_MS + 1000 * seconds, BUSY)
    with TradeJournal.read(folder) as journal:
        repaired = {name: sum(f.last_id - f.first_id + 1 for f in journal.fills(name)) for name in SYMBOLS}
    print(f"trades from REST: {repaired}; {final['stalls']} stalls noticed")
    assert repaired[silent] >= BUSY * seconds and repaired[well] < BUSY * seconds / 2


def test_a_clock_that_jumps_by_an_hour_changes_nothing_that_is_stored(tmp_path: Path) -> None:
    folder, end_ms = tmp_path / "journal", START_MS + 7_000
    options, program = ["--until-ms", str(end_ms)], ("tests.faults.stepping_clock",)
    with (
        busy_exchange(tmp_path, "--faults", json.dumps({"seed": 3, "drop": 0.002, "rest_429": 0.1})) as port,
        collector(folder, port, *options, program=program, log=tmp_path / "log") as process,
    ):
        final = ended(process)
    assert final["holes"] and "reconnects" not in final
    assert_exactly_the_market(folder, end_ms, BUSY)
