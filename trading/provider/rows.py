"""Rows as one NumPy array: each row one piece of memory, so that any stretch of rows is a view and costs no copy.

An unknown float is NaN there, an unknown integer the smallest one, an unknown truth or text -1. A text is the number of its
place among the texts seen, a side of a book its first `LEVELS` numbers and, as `<name>_levels`, how many there are.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

LEVELS: Final = 20

Rows = NDArray[np.void]

_NUMBERS: Final[Mapping[Any, tuple[str, Any]]] = {
    pl.Float64: ("f8", np.nan),
    pl.Int64: ("i8", np.iinfo(np.int64).min),
    pl.Int32: ("i4", np.iinfo(np.int32).min),
    pl.Boolean: ("i1", -1),
}
_TEXT: Final = pl.String
_UNKNOWN: Final = -1


class Layout:
    """How the rows of one schema lie in memory.

    Args:
        schema: Columns of kinds Int64, Int32, Float64, Boolean, String and List(Float64).

    Attributes:
        dtype: Of an array of rows.
        no_rows: An array of none.
        texts: Those seen so far; a row holds the place of its own.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = dict(schema)
        self.texts: list[str] = []
        self._places: dict[str, int] = {}
        fields: list[tuple[Any, ...]] = []
        for name, kind in self.schema.items():
            if isinstance(kind, pl.List):
                fields += [(name, "f8", (LEVELS,)), (f"{name}_levels", "i1")]
            else:
                fields.append((name, "i2" if kind == _TEXT else _NUMBERS[kind][0]))
        self.dtype = np.dtype(fields)
        self.no_rows: Rows = np.empty(0, self.dtype)

    def row(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return one row as the tuple that an array of rows takes; an absent column is unknown."""
        row: list[Any] = []
        for name, kind in self.schema.items():
            value = values.get(name)
            if isinstance(kind, pl.List):
                side = np.full(LEVELS, np.nan)
                levels = value[:LEVELS] if value is not None else ()
                side[: len(levels)] = levels
                row += [side, len(levels) if value is not None else _UNKNOWN]
            elif kind == _TEXT:
                row.append(self._place(value))
            else:
                row.append(_NUMBERS[kind][1] if value is None else value)
        return tuple(row)

    def pack(self, frame: pl.DataFrame) -> Rows:
        """Return the rows of a frame that has the schema's columns; an absent one is unknown."""
        rows = np.empty(len(frame), self.dtype)
        for name, kind in self.schema.items():
            if isinstance(kind, pl.List):
                self._pack_side(rows, name, frame[name] if name in frame.columns else None)
            elif name not in frame.columns:
                rows[name] = _UNKNOWN if kind == _TEXT else _NUMBERS[kind][1]
            elif kind == _TEXT:
                rows[name] = [self._place(text) for text in frame[name]]
            elif kind == pl.Boolean:
                rows[name] = frame[name].cast(pl.Int8).fill_null(_UNKNOWN).to_numpy()
            else:
                rows[name] = frame[name].cast(kind).fill_null(_NUMBERS[kind][1]).to_numpy()
        return rows

    def unpack(self, rows: Rows) -> pl.DataFrame:
        """Return rows as a frame of the schema."""
        return pl.DataFrame([self._column(rows, name, kind) for name, kind in self.schema.items()])

    def _column(self, rows: Rows, name: str, kind: Any) -> pl.Series:
        if isinstance(kind, pl.List):
            levels = rows[f"{name}_levels"]
            sides = [
                side[:count].tolist() if count >= 0 else None for side, count in zip(rows[name], levels, strict=True)
            ]
            return pl.Series(name, sides, kind)
        values = np.ascontiguousarray(rows[name])
        if kind == _TEXT:
            return pl.Series(name, [self.texts[place] if place >= 0 else None for place in values.tolist()], pl.String)
        if kind == pl.Float64:
            return pl.Series(name, values, nan_to_null=True)
        unknown = values == _NUMBERS[kind][1]
        series = pl.Series(name, values).cast(pl.Boolean) if kind == pl.Boolean else pl.Series(name, values)
        return series.set(pl.Series(unknown), None) if unknown.any() else series

    def _pack_side(self, rows: Rows, name: str, sides: pl.Series | None) -> None:
        rows[name] = np.nan
        rows[f"{name}_levels"] = _UNKNOWN
        for place, side in enumerate(sides if sides is not None else ()):
            if side is not None:
                best = side[:LEVELS].to_numpy()
                rows[name][place, : len(best)] = best
                rows[f"{name}_levels"][place] = len(best)

    def _place(self, text: str | None) -> int:
        if text is None:
            return _UNKNOWN
        place = self._places.get(text)
        if place is None:
            # A reader looks a text up only after its row was published, which is after this.
            self.texts.append(text)
            place = self._places[text] = len(self.texts) - 1
        return place
