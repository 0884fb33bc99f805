"""What a collector says of itself: log lines, figures for its status, and the same figures for Prometheus."""

import json
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

LOG_EVERY_S: Final = 60.0
KEPT: Final = 1_000

_log = logging.getLogger(__name__)


class Watch:
    """What was stored of some symbols, and how long that took.

    Args:
        symbols: Whose trades.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self._counted = Counter[str](dict.fromkeys(symbols, 0))
        self._newest_ms = dict.fromkeys(self._counted, 0)
        self._writes_ms: deque[float] = deque(maxlen=KEPT)
        self._waits_ms: deque[int] = deque(maxlen=KEPT)
        self._logged_s = time.monotonic()

    def stored(self, newest_ms: Mapping[str, tuple[int, int]], write_s: float, waits_ms: Iterable[int]) -> None:
        """Note one write.

        Args:
            newest_ms: How many trades were stored, and the exchange time of the newest of them, by symbol.
            write_s: How long the journal took.
            waits_ms: How long holes were known that this write filled.
        """
        self._writes_ms.append(1000 * write_s)
        self._waits_ms += waits_ms
        for symbol, (count, at_ms) in newest_ms.items():
            self._counted[symbol] += count
            self._newest_ms[symbol] = max(self._newest_ms[symbol], at_ms)
        if time.monotonic() - self._logged_s >= LOG_EVERY_S:
            self._log()

    def status(self) -> dict[str, Any]:
        """Return milliseconds that writes took and that holes were open, and how old each symbol's newest trade is."""
        now_s = time.time()
        lags = {name: round(now_s - at_ms / 1000, 3) for name, at_ms in self._newest_ms.items() if at_ms}
        return {"write_ms": _summary(self._writes_ms), "hole_repair_ms": _summary(self._waits_ms), "lag_s": lags}

    def _log(self) -> None:
        passed_s, self._logged_s = time.monotonic() - self._logged_s, time.monotonic()
        for symbol, count in self._counted.items():
            if count:
                at = datetime.fromtimestamp(self._newest_ms[symbol] / 1000, UTC).isoformat(timespec="milliseconds")
                fields = {"symbol": symbol, "trades": count, "newest_ms": self._newest_ms[symbol]}
                _log.info("Stored %d trades for %s at %s", count, symbol, at, extra={"fields": fields})
            else:
                fields = {"symbol": symbol, "trades": 0}
                _log.warning("No trade for %s in %.0f s", symbol, passed_s, extra={"fields": fields})
            self._counted[symbol] = 0


def _summary(values: Iterable[float]) -> dict[str, float] | None:
    ordered = sorted(values)
    if not ordered:
        return None
    at = {"p50": len(ordered) // 2, "p99": math.ceil(0.99 * len(ordered)) - 1, "max": len(ordered) - 1}
    return {name: round(ordered[place], 3) for name, place in at.items()}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and the fields that a line was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False, default=str)


def log_to_stderr(form: str) -> None:
    """Send log lines to standard error, as `text` or as `json`."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def serve_metrics(port: int, status: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Serve a collector's status to Prometheus on loopback; return what ends that.

    Args:
        port: Of `http://127.0.0.1:PORT/metrics`.
        status: Returns the status whenever somebody asks.

    Raises:
        OSError: The port is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Metrics(status))
    server, thread = start_http_server(port, "127.0.0.1", registry)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


COUNTED: Final = {
    "trades": "Trades stored.",
    "duplicates": "Trades that came more than once.",
    "holes": "Holes in the ids that were seen.",
    "repaired": "Trades that came over REST because the stream had not brought them.",
    "reconnects": "Connections lost with none beside them.",
    "replacements": "Connections replaced by one beside them.",
    "stalls": "Connections that did not bring what REST had.",
    "overflows": "Connections closed because the store was behind.",
    "refused": "Pages that REST refused.",
    "marks": "Mark prices stored.",
    "mark_stalls": "Connections whose mark prices had stopped.",
    "klines_agree": "Klines that say what the trades say.",
    "klines_differ": "Klines that do not.",
}


class _Metrics:
    """The figures of one status, in Prometheus' form."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status()
        for name, meaning in COUNTED.items():
            yield CounterMetricFamily(f"trading_collector_{name}", meaning, value=status.get(name, 0))
        bad = CounterMetricFamily("trading_collector_bad_frames", "Frames not understood.", labels=["reason"])
        for reason, count in status.get("bad_frames", {}).items():
            bad.add_metric([reason], count)
        yield bad
        for name, meaning, values in (
            ("lag_seconds", "Age of the newest trade.", status.get("lag_s", {})),
            ("open_holes", "Holes being repaired.", {k: s["holes"] for k, s in status.get("symbols", {}).items()}),
        ):
            gauge = GaugeMetricFamily(f"trading_collector_{name}", meaning, labels=["symbol"])
            for symbol, value in values.items():
                gauge.add_metric([symbol], value)
            yield gauge
        yield GaugeMetricFamily("trading_collector_quiet_seconds", "Since any frame.", value=status.get("quiet_s", 0))
        yield GaugeMetricFamily(
            "trading_collector_pending_bytes",
            "Trades that wait to be stored, about.",
            value=status.get("pending_bytes", 0),
        )
        for name in ("write_ms", "hole_repair_ms"):
            gauge = GaugeMetricFamily(f"trading_collector_{name}", "Of the last thousand.", labels=["quantile"])
            for quantile, value in (status.get(name) or {}).items():
                gauge.add_metric([quantile], value)
            yield gauge
