"""A frame crosses the wire as PostgreSQL's binary COPY, built and read a column at a time by numpy.

A row is the number of its fields, and for each field its size (-1: null) and its bytes, most significant first. Rows that
follow each other mostly have one layout, and are then one grid. What a value is follows from the frame's schema: the
database's columns have the same widths, and no value passes through text, so each survives bit for bit. See
https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.timescale.book_levels import lists
from resources.timescale.copy_kernels import NOT_THESE_COLUMNS, are_alike, count_rows, find_elements, find_fields
from resources.timescale.counted import NotStorable
from resources.timescale.tables import Table
from trading.compiled import read_only

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
EPOCH_MS: Final = 946_684_800_000
"""PostgreSQL counts microseconds from 2000-01-01."""
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""Years 1 to 9999, which every library in between can tell; a product with 1,000 stays far from 2^63."""
WIRE: Final = {pl.Int64: ">i8", pl.Int32: ">i4", pl.Int16: ">i2", pl.Float64: ">f8", pl.Boolean: "u1"}
ELEMENT: Final = {pl.Float64: (">f8", 701), pl.Int64: (">i8", 20)}
"""How an element of a list is written, and the object id of its type."""
LIST_HEAD, ELEMENT_SIZE = 20, 12
FEW_TEXTS: Final = 8


class NotBinaryCopy(ValueError):
    """Bytes are not what PostgreSQL answers to COPY with these columns."""


# -- a frame to bytes ----------------------------------------------------------------------------------------------------


class _Field(NamedTuple):
    """A column on its way: the size of each row's value, and what puts the values where they belong."""

    sizes: NDArray[np.int64]
    put: Callable[[Bytes, Places], None]


def encode(table: Table, frame: pl.DataFrame, scope: tuple[int | str, ...]) -> bytes:
    """Return a frame as binary COPY with the scope's values in front of each row.

    Raises:
        NotStorable: A time lies outside the years 1 to 9999, or a number of a book is no multiple of any step.
    """
    counted = table.counted.packed(frame) if table.counted else {}
    rows = len(frame)
    fields = [_constant(value, rows) for value in scope]
    for name, kind in table.stored.items():
        column = counted[name] if name in counted else frame[name]
        column = column if column.dtype == kind else column.cast(kind)
        if table.is_moment(name):
            fields.append(_moments(name, column))
        elif isinstance(kind, pl.List):
            fields.append(_lists(column, *ELEMENT[kind.inner]))
        else:
            fields.append(_texts(column) if kind == pl.String else _numbers(column, WIRE[kind]))
    ends = np.cumsum(sum((4 + np.maximum(field.sizes, 0) for field in fields), np.full(rows, 2)))
    out = np.empty(len(HEADER) + (int(ends[-1]) if rows else 0) + len(TRAILER), np.uint8)
    out[: len(HEADER)] = np.frombuffer(HEADER, np.uint8)
    out[-len(TRAILER) :] = np.frombuffer(TRAILER, np.uint8)
    if rows:
        at = np.append(0, ends[:-1]) + len(HEADER)
        _anywhere(out, ">i2")[at] = len(fields)
        at += 2
        for field in fields:
            _anywhere(out, ">i4")[at] = field.sizes
            at += 4
            field.put(out, at)
            at += np.maximum(field.sizes, 0)
    return out.tobytes()


def _anywhere(raw: Bytes, kind: str) -> NDArray[Any]:
    """Return a view in which item `i` is the number that begins at byte `i`."""
    return np.ndarray((max(0, len(raw) - np.dtype(kind).itemsize + 1),), kind, raw, 0, (1,))


def _constant(value: int | str, rows: int) -> _Field:
    if isinstance(value, int):
        return _Field(np.full(rows, 2), lambda out, at: _set(_anywhere(out, ">i2"), at, value))
    text = value.encode()
    lengths = np.full(rows, len(text))
    return _Field(
        lengths, lambda out, at: _set(out, _spread(at, lengths), np.tile(np.frombuffer(text, np.uint8), rows))
    )


def _set(target: NDArray[Any], at: Places, values: Any) -> None:
    target[at] = values


def _numbers(column: pl.Series, wire: str) -> _Field:
    width = np.dtype(wire).itemsize
    if not column.null_count():
        values = column.to_numpy()
        return _Field(np.full(len(column), width), lambda out, at: _set(_anywhere(out, wire), at, values))
    if column.null_count() == len(column):
        return _Field(np.full(len(column), -1), lambda out, at: None)
    known, values = column.is_not_null().to_numpy(), column.drop_nulls().to_numpy()
    return _Field(np.where(known, width, -1), lambda out, at: _set(_anywhere(out, wire), at[known], values))


def _moments(name: str, column: pl.Series) -> _Field:
    first, last = column.min(), column.max()
    if first is not None and (first < FIRST_MS or last > LAST_MS):
        raise NotStorable(f"{name} lies outside the years 1 to 9999", "times are epoch milliseconds")
    return _numbers((column - EPOCH_MS) * 1000, ">i8")


def _texts(column: pl.Series) -> _Field:
    sizes = column.str.len_bytes().cast(pl.Int64).fill_null(-1).to_numpy()
    lengths = np.maximum(sizes, 0)
    joined = np.frombuffer(column.str.join("").item().encode(), np.uint8)
    return _Field(sizes, lambda out, at: _set(out, _spread(at, lengths), joined))


def _spread(starts: Places, lengths: NDArray[np.int64], step: int = 1) -> Places:
    """Return the place of each of `lengths[i]` things that lie `step` apart from `starts[i]` on, for all `i` in turn."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before * step, lengths) + np.arange(lengths.sum()) * step


def _lists(column: pl.Series, wire: str, element: int) -> _Field:
    known = column.is_not_null().to_numpy()
    counts = column.list.len().cast(pl.Int64).fill_null(0).to_numpy()
    items = column.filter(pl.Series(counts > 0)).explode()
    present, values = items.is_not_null().to_numpy(), items.drop_nulls().to_numpy()
    ends = np.append(0, np.cumsum(4 + 8 * present))  # of the elements, from the first of all
    edges = np.append(0, np.cumsum(counts))
    content = ends[edges[1:]] - ends[edges[:-1]]
    lacks = ELEMENT_SIZE * counts != content
    sizes = np.where(known, np.where(counts > 0, LIST_HEAD, 12) + content, -1)

    def put(out: Bytes, at: Places) -> None:
        integers, filled = _anywhere(out, ">i4"), counts > 0
        integers[at[known]] = filled[known]  # dimensions
        integers[at[known] + 4] = lacks[known]
        integers[at[known] + 8] = element
        integers[at[filled] + 12] = counts[filled]
        integers[at[filled] + 16] = 1  # where counting begins
        places = np.repeat(at + LIST_HEAD - ends[edges[:-1]], counts) + ends[:-1]
        integers[places] = np.where(present, 8, -1)
        _anywhere(out, wire)[places[present] + 4] = values

    return _Field(sizes, put)


# -- bytes to a frame ----------------------------------------------------------------------------------------------------


def select(table: Table) -> str:
    """Return the column list of a query whose binary COPY `decode` reads."""
    return ", ".join(table.columns)


def decode(table: Table, copied: bytes | bytearray | memoryview) -> pl.DataFrame:
    """Return the frame of what `COPY (SELECT {select(table)} ...) TO STDOUT (FORMAT binary)` answered.

    Raises:
        NotBinaryCopy: It is something else, or its columns are.
    """
    raw = read_only(np.frombuffer(copied, np.uint8))
    if bytes(raw[: len(HEADER)]) != HEADER or bytes(raw[-len(TRAILER) :]) != TRAILER:
        raise NotBinaryCopy("no binary COPY, or not all of it")
    fields, columns, units = _fields(raw, len(table.stored)), dict[str, pl.Series](), dict[str, Any]()
    for number, (name, kind) in enumerate(table.stored.items()):
        if table.counted is None or name not in table.counted.columns:
            columns[name] = _read(fields, number, name, kind, table.is_moment(name))
        elif isinstance(kind, pl.List):
            units[name] = _read_list(fields.raw, *fields.of(number), kind)
        else:
            units[name], _ = _read_numbers(fields, number, kind)
    if table.counted is not None:
        columns |= table.counted.unpacked(units)
    return pl.DataFrame([columns[name] for name in table.schema])


@dataclass(frozen=True)
class _Fields:
    """Where each field of each row begins, and its size, both of shape (rows, columns).

    Attributes:
        raw: The answer.
        places: Of each field; of the first row alone where all rows have its layout.
        sizes: Likewise.
        rows: How many there are.
        stride: How far one row is from the next, 0 where that varies.
    """

    raw: Bytes
    places: Places
    sizes: NDArray[np.int64]
    rows: int
    stride: int = 0

    def of(self, number: int) -> tuple[Places, NDArray[np.int64]]:
        """Return places and sizes of one column."""
        if not self.stride:
            return self.places[:, number], self.sizes[:, number]
        apart = self.stride * np.arange(self.rows)
        return self.places[0, number] + apart, np.broadcast_to(self.sizes[0, number], self.rows)

    def grid(self, number: int, kind: str) -> NDArray[Any]:
        """Return one column as it lies there, where all rows have one layout."""
        return np.ndarray((self.rows,), kind, self.raw, int(self.places[0, number]), (self.stride,))


def _fields(raw: Bytes, columns: int) -> _Fields:
    """Find the fields. Mostly all rows have one layout, which one look at all their heads tells."""
    at, end = len(HEADER), len(raw) - len(TRAILER)
    first = _walked(raw, at, end, columns, most=1)
    stride = int(first.places[0, -1] + max(0, first.sizes[0, -1])) - at if first.rows else 0
    if stride and (end - at) % stride == 0:
        rows = (end - at) // stride
        if are_alike(_anywhere(raw, "=u4"), at, rows, stride, first.places[0]):
            return _Fields(raw, first.places, first.sizes, rows, stride)
    return _walked(raw, at, end, columns, most=len(raw))


def _walked(raw: Bytes, at: int, end: int, columns: int, most: int) -> _Fields:
    """Find the fields row by row, at most of so many rows."""
    rows = count_rows(raw, at, end, columns, most)
    if rows < 0:
        raise NotBinaryCopy(
            f"rows do not have {columns} columns" if rows == NOT_THESE_COLUMNS else "a row ends too soon"
        )
    places, sizes = np.empty((rows, columns), np.int64), np.empty((rows, columns), np.int64)
    find_fields(raw, at, places, sizes)
    return _Fields(raw, places, sizes, rows)


def _read(fields: _Fields, number: int, name: str, kind: Any, moment: bool) -> pl.Series:
    if isinstance(kind, pl.List):
        return _read_list(fields.raw, *fields.of(number), kind).alias(name)
    if kind == pl.String:
        return _read_text(fields, number).alias(name)
    values, known = _read_numbers(fields, number, kind)
    if moment:
        values = values // 1000 + EPOCH_MS
    column = pl.Series(name, values.view(bool) if kind == pl.Boolean else values)
    return column if known is None or known.all() else column.scatter(np.flatnonzero(~known), None)


def _read_numbers(fields: _Fields, number: int, kind: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return the values of a column, 0 for a null, and which are known; None: all."""
    wire = np.dtype(WIRE[kind])
    if fields.stride and fields.sizes[0, number] == wire.itemsize:
        return fields.grid(number, wire.str).astype(wire.newbyteorder("=")), None
    places, sizes = fields.of(number)
    known = sizes >= 0
    if not (sizes[known] == wire.itemsize).all():
        raise NotBinaryCopy(f"a value of {sizes.max()} bytes is no {kind}")
    values = np.zeros(len(places), wire.newbyteorder("="))
    values[known] = _anywhere(fields.raw, wire.str)[places[known]]
    return values, known


def _read_text(fields: _Fields, number: int) -> pl.Series:
    if fields.stride and (size := int(fields.sizes[0, number])) > 0:
        texts = fields.grid(number, f"S{size}")
        firsts = np.append(0, np.flatnonzero(texts[1:] != texts[:-1]) + 1)
        if len(firsts) <= FEW_TEXTS:  # mostly one text is said again and again
            runs = zip(texts[firsts].tolist(), np.diff(firsts, append=fields.rows).tolist(), strict=True)
            return pl.concat(
                [pl.Series([text.decode()]).new_from_index(0, count) for text, count in runs], rechunk=True
            )
    raw, (places, sizes) = fields.raw, fields.of(number)
    if len(sizes) and sizes[0] > 0 and (sizes == sizes[0]).all():
        fixed = np.dtype(f"S{sizes[0]}")  # NumPy cuts zeros off the end, which no text of PostgreSQL has
        values = _anywhere(raw, fixed.str)[places].tolist()
    else:
        content, ends = raw.data, (places + sizes).tolist()
        values = [bytes(content[at:end]) if end >= at else None for at, end in zip(places.tolist(), ends, strict=True)]
    return pl.Series(values, dtype=pl.Binary).cast(pl.String)


def _read_list(raw: Bytes, places: Places, sizes: NDArray[np.int64], kind: pl.List) -> pl.Series:
    wire, element = ELEMENT[kind.inner]
    integers, known = _anywhere(raw, ">i4"), sizes >= 0
    if not ((integers[places[known]] <= 1) & (integers[places[known] + 8] == element)).all():
        raise NotBinaryCopy(f"a value is no {kind}")
    counts = np.zeros(len(places), np.int64)
    filled = sizes >= LIST_HEAD
    counts[filled] = integers[places[filled] + 12]
    if (counts < 0).any():
        raise NotBinaryCopy(f"a value is no {kind}")
    starts = places + LIST_HEAD
    if (sizes[filled] == LIST_HEAD + ELEMENT_SIZE * counts[filled]).all():
        items = _spread(starts + 4, counts, ELEMENT_SIZE)
        if known.all():
            return lists(_anywhere(raw, wire)[items].astype(np.dtype(wire).newbyteorder("=")), counts)
    else:
        items = _elements(raw, starts, places + sizes, counts)
    present = items >= 0
    values = np.zeros(len(items), np.dtype(wire).newbyteorder("="))
    values[present] = _anywhere(raw, wire)[items[present]]
    import pyarrow as pa  # a fifth of a second

    edges = pa.array(np.append(0, np.cumsum(counts)), mask=np.append(~known, False))
    found = pa.LargeListArray.from_arrays(edges, pa.array(values, mask=~present))
    return pl.Series(pl.from_arrow(found), dtype=kind)


def _elements(raw: Bytes, starts: Places, ends: Places, counts: Places) -> Places:
    """Return the place of each element of lists that hold nulls, -1 for a null."""
    # A null takes four bytes: no list has more elements than that leaves room for, whatever it says.
    if (counts * 4 > ends - starts)[counts > 0].any():
        raise NotBinaryCopy("a list ends too soon")
    places = np.empty(int(counts.sum()), np.int64)
    if not find_elements(raw, starts, ends, counts, places):
        raise NotBinaryCopy("a list ends too soon")
    return places
