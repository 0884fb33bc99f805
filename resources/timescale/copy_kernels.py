"""Where the fields of a binary COPY lie: compiled, as only a row says where the next one begins."""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

NOT_THESE_COLUMNS: Final = -1
ENDS_TOO_SOON: Final = -2


@njit(cache=True)
def _size(raw: Bytes, place: int) -> int:
    """Return the size of the field at a place, below zero for null."""
    unsigned = (
        np.int64(raw[place]) << 24
        | np.int64(raw[place + 1]) << 16
        | np.int64(raw[place + 2]) << 8
        | np.int64(raw[place + 3])
    )
    return unsigned - (1 << 32) if unsigned >> 31 else unsigned


@njit(cache=True)
def count_rows(raw: Bytes, at: int, end: int, columns: int, most: int) -> int:
    """Return how many rows of so many columns lie in `[at, end)`, or the first `most` of them, or what is wrong with one."""
    rows = 0
    while at < end and rows < most:
        if at + 2 > end:
            return ENDS_TOO_SOON
        if np.int64(raw[at]) << 8 | np.int64(raw[at + 1]) != columns:
            return NOT_THESE_COLUMNS
        at += 2
        for _ in range(columns):
            if at + 4 > end:
                return ENDS_TOO_SOON
            at += 4 + max(0, _size(raw, at))
            if at > end:
                return ENDS_TOO_SOON
        rows += 1
    return rows


@njit(cache=True)
def find_fields(raw: Bytes, at: int, places: Places, sizes: Places) -> None:
    """Put down where each field begins, and its size, of as many rows as there is room for, which were counted before."""
    for row in range(places.shape[0]):
        at += 2
        for column in range(places.shape[1]):
            size = _size(raw, at)
            at += 4
            places[row, column], sizes[row, column] = at, size
            at += max(0, size)


@njit(cache=True)
def are_alike(words: NDArray[np.uint32], at: int, rows: int, stride: int, places: Places) -> bool:
    """Return whether all rows have the layout of the first, whose fields lie at these places.

    Item `i` of `words` is the four bytes that begin at byte `i`, in any order.
    """
    for row in range(1, rows):
        begin = row * stride
        if words[begin + at] != words[at]:  # how many fields there are
            return False
        for place in places:
            if words[begin + place - 4] != words[place - 4]:
                return False
    return True


@njit(cache=True)
def find_elements(raw: Bytes, starts: Places, ends: Places, counts: Places, places: Places) -> bool:
    """Put down where each 8-byte element of lists begins, -1 for a null; return whether all lie inside their lists."""
    found = 0
    for index in range(len(starts)):
        at = starts[index]
        for _ in range(counts[index]):
            if at + 4 > ends[index]:
                return False
            null = _size(raw, at) < 0
            at += 4
            places[found] = -1 if null else at
            found += 1
            at += 0 if null else 8
            if at > ends[index]:
                return False
    return True
