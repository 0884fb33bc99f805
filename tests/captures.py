"""Frames that others recorded off the wire, in the order in which they came."""

import gzip
from collections.abc import Iterator

from tests.recorded import recorded


def frames(*names: str) -> Iterator[tuple[int, bytes]]:
    """Yield (receive time in ns, frame) of files with lines `<ns> <JSON>`."""
    for path in [recorded(name) for name in names]:
        with gzip.open(path) as lines:
            for line in lines:
                received, _, frame = line.rstrip(b"\n").partition(b" ")
                yield int(received), frame


def feed(stream: str, rest: str | None = None) -> list[tuple[float, str, bytes]]:
    """Return (receive time in s, URL asked or "", body) of files with lines `[<URL> -> ]<s>: <JSON>`, by time."""
    taken: list[tuple[float, str, bytes]] = []
    for path in [recorded(name) for name in (stream, rest) if name]:
        for line in gzip.decompress(path.read_bytes()).splitlines():
            head, _, body = line.partition(b": ")
            if body:
                url, _, received = head.decode().rpartition(" -> ")
                taken.append((float(received), url, body))
    return sorted(taken, key=lambda one: one[0])
