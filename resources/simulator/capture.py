"""Frames recorded off the wire: replayed as they came, and read for what REST can answer from them.

A file holds one frame a line, `<received> <JSON>`, received in nanoseconds, or in seconds with a colon behind; a line may
begin with the URL that was asked, `<URL> -> `, and a frame without a time of receipt came when it says. A frame is
replayed by the recorder's clock, moved so that none comes before the moment that it names itself.
"""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from resources.simulator.market import Event
from trading.stream.wire import MILLISECONDS

LINE: Final = re.compile(rb"(?:(?:(?P<url>\S+) -> )?(?P<received>\d+(?:\.\d+)?):? )?(?P<frame>\{.*\})\s*")
TITLE: Final = re.compile(rb"\S+ <-> \S+\s*")
"""The line with which some recorders begin and end: the URL of the socket."""

NANOSECONDS: Final = 10**12
"""A time of receipt above it is in nanoseconds, else in seconds."""

WRITTEN: Final = 100
"""Diffs that are looked at for how numbers are written."""

FILLS: Final = {"t": pl.Int64, "p": pl.String, "q": pl.String, "T": pl.Int64, "m": pl.Boolean}
AGG_TRADES: Final = {"a": pl.Int64, "p": pl.String, "q": pl.String, "f": pl.Int64, "l": pl.Int64}
AGG_TRADES |= {"T": pl.Int64, "m": pl.Boolean}


class BadFile(ValueError):
    """A file holds something that is no recorded frame; says which and what."""


class _Envelope(msgspec.Struct):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    lastUpdateId: int | None = None
    E: Any = None


class _Body(msgspec.Struct):
    e: str = ""
    E: Any = None
    s: str = ""
    pu: Any = None
    M: Any = None
    B: Any = None


_ENVELOPES: Final = msgspec.json.Decoder(_Envelope)
_BODIES: Final = msgspec.json.Decoder(_Body)


class _Frame(NamedTuple):
    received_ms: float | None
    url: str
    frame: bytes
    envelope: _Envelope
    body: _Body | None


class Capture:
    """The frames of some files.

    Args:
        files: Of one kind of market.

    Raises:
        BadFile: One holds something that is no recorded frame.

    Attributes:
        frames: Events by stream, in their order.
        snapshots: Depth snapshots by symbol: when each came, its place, its JSON.
    """

    def __init__(self, files: list[Path]) -> None:
        taken = [frame for file in files for frame in _frames(file)]
        moved_ms = max((_at(f) - f.received_ms for f in taken if f.received_ms and _at(f)), default=0.0)
        self.frames: dict[str, list[Event]] = defaultdict(list)
        self.snapshots: dict[str, list[tuple[int, int, bytes]]] = defaultdict(list)
        names = {f.body.s for f in taken if f.body and f.body.e == "depthUpdate"}
        times = [int(_at(f) if f.received_ms is None else f.received_ms + moved_ms + 0.999) for f in taken]
        for place, (at, frame) in enumerate(zip(times, taken, strict=True)):
            if frame.envelope.stream:
                event = Event(at, place, frame.envelope.stream, bytes(frame.envelope.data).decode())
                self.frames[event.stream].append(event)
            elif frame.envelope.lastUpdateId is not None:
                asked = re.search(r"symbol=(\w+)", frame.url)
                # A snapshot does not say whose it is.
                symbol = asked[1] if asked else next(iter(names)) if len(names) == 1 else ""
                self.snapshots[symbol].append((at, place, frame.frame))
        for events in self.frames.values():
            events.sort(key=lambda event: event[:2])

    @property
    def span(self) -> tuple[int, int]:
        """Return when the first and the last frame came."""
        ends = [(events[0].time_ms, events[-1].time_ms) for events in self.frames.values()]
        return min(first for first, _ in ends), max(last for _, last in ends)

    def symbols(self) -> set[str]:
        """Return the names of all markets."""
        return {stream.partition("@")[0].upper() for stream in self.frames if not stream.startswith("!")}

    def depth_stream(self, symbol: str) -> str | None:
        """Return the stream of a symbol's diffs with the most frames."""
        streams = [name for name in self.frames if re.fullmatch(rf"{symbol.lower()}@depth(@\d+ms)?", name)]
        return max(streams, key=lambda name: len(self.frames[name]), default=None)

    def written_decimals(self, symbol: str) -> tuple[int, int] | None:
        """Return how many decimals prices and quantities have in a symbol's book, or None where it has none."""
        texts = [e.text for e in self.frames.get(self.depth_stream(symbol) or "", ())[:WRITTEN]]
        pairs = [pair for text in texts for pair in re.findall(r'\["[0-9]+\.?([0-9]*)","[0-9]+\.?([0-9]*)"\]', text)]
        return (max(len(p) for p, _ in pairs), max(len(q) for _, q in pairs)) if pairs else None

    def agg_trades(self, symbol: str) -> pl.DataFrame:
        """Return aggregate trades, prices and quantities as text; where only fills were recorded, from those.

        Fills of one moment, price and side that follow one another are one trade; its number is then ours, from 1 on.
        """
        frame = self._read(f"{symbol.lower()}@aggTrade", AGG_TRADES)
        if len(frame):
            return frame.unique(maintain_order=True)
        fills = self.fills(symbol)
        same = [pl.col(name) == pl.col(name).shift() for name in ("T", "p", "m")]
        run = (~pl.all_horizontal(*same, pl.col("t") == pl.col("t").shift() + 1)).fill_null(True).cum_sum()
        quantity = pl.col("q").cast(pl.Decimal(38, 8)).sum().cast(pl.String)
        ends = {"f": pl.col("t").first(), "l": pl.col("t").last(), "T": pl.col("T").first(), "m": pl.col("m").first()}
        grouped = fills.group_by(a=run, maintain_order=True).agg(p=pl.col("p").first(), q=quantity, **ends)
        return grouped.cast(AGG_TRADES)  # pyright: ignore[reportArgumentType]

    def fills(self, symbol: str) -> pl.DataFrame:
        """Return fills, prices and quantities as text; without those that futures send as a note, at a price of 0."""
        fills = self._read(f"{symbol.lower()}@trade", FILLS).unique(maintain_order=True).sort("t")
        return fills.filter(pl.col("p").cast(pl.Float64) > 0)

    def _read(self, stream: str, schema: dict[str, Any]) -> pl.DataFrame:
        lines = "\n".join(event.text for event in self.frames.get(stream, ()))
        return pl.read_ndjson(lines.encode(), schema=schema) if lines else pl.DataFrame(schema=schema)


def kind_of(file: Path) -> str | None:
    """Return the kind of market that a file was recorded from, or None where no frame tells."""
    return next((kind for kind in map(_kind, _frames(file)) if kind), None)


def _frames(file: Path) -> Iterator[_Frame]:
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                found = LINE.fullmatch(line)
                if found is None and (TITLE.fullmatch(line) or line.isspace()):
                    continue
                if found is None:
                    raise BadFile(f"{file} line {number} is no recorded frame")
                envelope = _ENVELOPES.decode(found["frame"])
                body = _BODIES.decode(envelope.data) if envelope.stream else None
                url = (found["url"] or b"").decode()
                yield _Frame(_received(found["received"]), url, found["frame"], envelope, body)
    except (OSError, EOFError, UnicodeError, msgspec.DecodeError) as error:
        raise BadFile(f"{file} is damaged at line {number}: {error}") from None


def _received(text: bytes | None) -> float | None:
    """Return a time of receipt in milliseconds."""
    if text is None:
        return None
    return int(text) / 10**6 if b"." not in text and int(text) > NANOSECONDS else float(text) * 1000


def _at(frame: _Frame) -> float:
    """Return the moment that a frame names, or 0."""
    at = frame.envelope.E if frame.body is None else frame.body.E
    return float(at) if isinstance(at, int) and at in MILLISECONDS else 0.0


def _kind(frame: _Frame) -> str | None:
    """Return the kind of market of a frame: futures link diffs, name best prices, have no `M` and date snapshots."""
    if frame.body is None:
        if frame.envelope.lastUpdateId is None:
            return None
        return "spot" if frame.envelope.E is None else "usdm"
    event = frame.body.e
    if event == "depthUpdate":
        return "spot" if frame.body.pu is None else "usdm"
    if event in ("trade", "aggTrade"):
        return "spot" if frame.body.M is not None else "usdm"
    if event in ("bookTicker", "markPriceUpdate"):
        return "usdm"
    return "spot" if not event and frame.body.B is not None else None
