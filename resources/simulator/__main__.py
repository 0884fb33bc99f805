"""`python -m resources.simulator`: run the simulated exchange until it is told to stop."""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import ssl
from pathlib import Path

from resources.simulator.clock import Clock
from resources.simulator.faults import fault_plan
from resources.simulator.market import Market
from resources.simulator.recording import recordings
from resources.simulator.server import SimulatedExchange
from resources.simulator.synthetic import SyntheticMarket

KINDS = ("spot", "usdm")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--symbols", default="BTCUSDT,ETHUSDT")
    parser.add_argument("--start-ms", type=int, required=True)
    parser.add_argument("--end-ms", type=int, required=True)
    parser.add_argument("--speed", default="max", help="exchange seconds a second, or max")
    parser.add_argument("--trades-per-second", type=int, default=0, help="of each symbol; 0: about ten a minute")
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--faults", default="{}")
    parser.add_argument(
        "--limit", action="store_true", help="limit weight, messages and connections as the real exchange does"
    )
    parser.add_argument("--tls-certificate", type=Path, help="PEM file; speak https and wss")
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="stop when this process is gone")
    return parser.parse_args()


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT or the parent's end."""
    symbols = options.symbols.split(",")
    markets: list[Market] = (
        recordings(options.recording)
        if options.recording
        else [SyntheticMarket(options.seed, symbols, kind, options.trades_per_second) for kind in KINDS]
    )
    speed = math.inf if options.speed == "max" else float(options.speed)
    clock = Clock(options.start_ms, options.end_ms, speed)
    exchange = SimulatedExchange(markets, clock, fault_plan(json.loads(options.faults)), options.limit)
    tls = None
    if options.tls_certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls_certificate, options.tls_key)
    port = await exchange.start(options.port, tls)
    if options.port_file:
        unfinished = options.port_file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
        unfinished.replace(options.port_file)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    while not stopped.is_set() and not (options.parent and os.getppid() != options.parent):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stopped.wait(), 1)
    await exchange.stop()


if __name__ == "__main__":
    asyncio.run(run(arguments()))
