"""The MANIFEST of a RocksDB directory: which tables and logs make it up, as records with checksums.

RocksDB 9.8 can loop for ever over a damaged one, and takes a directory without the file CURRENT for a new one, whatever
lies in it; so both are looked at before it opens anything. A record is CRC-32C, length, kind and content, and none of
them crosses a block of 32 KiB. What the records say is RocksDB's.
"""

import re
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 32 * 2**10
HEAD_BYTES: Final = 7
KINDS: Final = frozenset((1, 2, 3, 4))
"""Whole, first, middle, last; those of recycled logs are never in a MANIFEST."""


def _crc_table() -> tuple[int, ...]:
    """Return the table of CRC-32C (reflected polynomial 0x82F63B78)."""
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1 for crc in table]
    return tuple(table)


_CRC: Final = _crc_table()


def damage_in(folder: Path) -> str | None:
    """Return what keeps RocksDB from opening a directory safely, or None; a new directory and a torn end are whole."""
    current = folder / "CURRENT"
    if not current.is_file():
        left = [file.name for file in (*folder.glob("*.sst"), *folder.glob("*.log")) if file.stat().st_size]
        return f"CURRENT is missing beside {min(left)}" if left else None
    name = current.read_bytes()[:40].removesuffix(b"\n")
    if not re.fullmatch(rb"MANIFEST-\d+", name) or not (folder / name.decode()).is_file():
        return f"CURRENT names {name!r}, which is no MANIFEST here"
    place = _first_damaged((folder / name.decode()).read_bytes())
    return None if place is None else f"{name.decode()} is damaged at byte {place}"


def _first_damaged(content: bytes) -> int | None:
    """Return where the first damaged record begins; one that the end of the file cuts off is none, as power may."""
    place = 0
    while place + HEAD_BYTES <= len(content):
        if BLOCK_BYTES - place % BLOCK_BYTES < HEAD_BYTES:
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        end = _end_of_record(content, place)
        if end is None:
            return place if any(content[place:]) else None  # zeros are room taken in advance
        if end > len(content):
            # What seems to be cut off is a damaged length, where a record follows.
            following = (_end_of_record(content, later) for later in range(place + 1, len(content) - HEAD_BYTES))
            return place if any(later is not None and later <= len(content) for later in following) else None
        place = end
    return None


def _end_of_record(content: bytes, place: int) -> int | None:
    """Return where the record at a place ends, beyond the content where it is cut off; None where there is none."""
    crc, length = int.from_bytes(content[place : place + 4], "little"), content[place + 4] | content[place + 5] << 8
    end = place + HEAD_BYTES + length
    if content[place + 6] not in KINDS or HEAD_BYTES + length > BLOCK_BYTES - place % BLOCK_BYTES:
        return None
    return end if end > len(content) or _masked_crc(content[place + 6 : end]) == crc else None


def _masked_crc(content: bytes) -> int:
    """Return CRC-32C as RocksDB stores it: rotated and shifted, as content may hold checksums itself."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
