"""A serialised answer is one dictionary, one JSON text or one Arrow stream, from which the same answer is read again.

An answer is a few frames by name and a head that says what they are. A frame may hold integers, floats, texts, booleans and
lists of floats. Unknown is null: NaN and infinity are refused, since JSON would make a null of them.
"""

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

import msgspec
import polars as pl

from trading.errors import TradingError

FORMAT: Final = 1

_DTYPES: Final[Mapping[str, pl.DataType]] = {
    "int64": pl.Int64(),
    "int32": pl.Int32(),
    "float64": pl.Float64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "list<float64>": pl.List(pl.Float64()),
}
_NAMES: Final[Mapping[pl.DataType, str]] = {dtype: name for name, dtype in _DTYPES.items()}
_HEAD: Final = "head"


class NotSerialisable(TradingError):
    """An answer holds a number that is none, or a column of a kind that has no written form."""


class NotDeserialisable(TradingError):
    """What was given is not what the same class wrote, or another version of it."""


class Serialised:
    """What a class needs to be written and read: `head`, `frames`, and `of`, which makes an answer of the two."""

    def head(self) -> msgspec.Struct:
        """Return all but the frames."""
        raise NotImplementedError

    def frames(self) -> dict[str, pl.DataFrame]:
        """Return each frame by the name of its part."""
        raise NotImplementedError

    @classmethod
    def of(cls, head: Any, frames: Mapping[str, pl.DataFrame]) -> Self:
        """Return the answer of a head, as plain values, and frames; raises `ValidationError` or `KeyError`."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values: the head's, and `frames` by name with their `schema` and `columns` (lists).

        Raises:
            NotSerialisable: A number is NaN or infinity, or a column of another kind.
        """
        frames = {
            name: {
                "schema": {column: _NAMES[dtype] for column, dtype in frame.schema.items()},
                "columns": frame.to_dict(as_series=False),
            }
            for name, frame in self._checked_frames().items()
        }
        return self._plain_head() | {"frames": frames}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the answer that `to_dict` wrote; raises `NotDeserialisable`."""
        head = dict(values)
        try:
            frames = {
                name: pl.DataFrame(
                    [
                        pl.Series(column, part["columns"][column], _DTYPES[kind])
                        for column, kind in part["schema"].items()
                    ]
                )
                for name, part in head.pop("frames").items()
            }
        except (KeyError, TypeError, AttributeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise NotDeserialisable(f"the frames of this {cls.__name__} cannot be read: {str(error)[:120]}") from None
        return cls._read(head, frames)

    def to_json(self) -> bytes:
        """Return JSON in UTF-8; each float is the shortest text that reads as the same float.

        Raises:
            NotSerialisable: A number is NaN or infinity, or a column of another kind.
        """
        return msgspec.json.encode(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the answer that `to_json` wrote; raises `NotDeserialisable`."""
        return cls.from_dict(_json_object(text))

    def to_arrow(self) -> bytes:
        """Return an Arrow IPC stream of one row: `head`, JSON, and for each frame a column, the list of its rows as structs.

        Raises:
            NotSerialisable: A number is NaN or infinity, or a column of another kind.
        """
        cells = [frame.to_struct(name).implode() for name, frame in self._checked_frames().items()]
        head = pl.Series(_HEAD, [msgspec.json.encode(self._plain_head()).decode()])
        stream = io.BytesIO()
        pl.DataFrame([head, *cells]).write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
        return stream.getvalue()

    @classmethod
    def from_arrow(cls, stream: bytes) -> Self:
        """Return the answer that `to_arrow` wrote; raises `NotDeserialisable`."""
        try:
            row = pl.read_ipc_stream(io.BytesIO(stream))
            head = _json_object(row[_HEAD][0])
            frames = {name: row[name][0].struct.unnest() for name in row.columns if name != _HEAD}
        except (pl.exceptions.PolarsError, OSError, TypeError, AttributeError, IndexError) as error:
            raise NotDeserialisable(f"this is no Arrow stream of a {cls.__name__}: {str(error)[:120]}") from None
        return cls._read(head, frames)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        ours, theirs = self.frames(), other.frames()
        return (
            self.head() == other.head()
            and list(ours) == list(theirs)
            and all(frame.schema == theirs[name].schema and frame.equals(theirs[name]) for name, frame in ours.items())
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_arrow, (self.to_arrow(),)

    def _plain_head(self) -> dict[str, Any]:
        head: dict[str, Any] = msgspec.to_builtins(self.head(), str_keys=True)
        for name, value in head.items():
            if not all(map(math.isfinite, _floats(value))):
                raise NotSerialisable(f"{name} holds NaN or infinity", "put null where nothing is known")
        return {"kind": type(self).__name__, "format": FORMAT, **head}

    def _checked_frames(self) -> dict[str, pl.DataFrame]:
        frames = self.frames()
        for name, frame in frames.items():
            for column in frame:
                if column.dtype not in _NAMES:
                    raise NotSerialisable(f"{name}: the column {column.name} is of kind {column.dtype}")
                numbers = column.explode() if column.dtype == pl.List else column
                if numbers.dtype == pl.Float64 and not numbers.is_finite().all():
                    raise NotSerialisable(
                        f"{name}: the column {column.name} holds NaN or infinity", "put null where nothing is known"
                    )
        return frames

    @classmethod
    def _read(cls, head: dict[str, Any], frames: Mapping[str, pl.DataFrame]) -> Self:
        found = head.pop("kind", None), head.pop("format", None)
        if found != (cls.__name__, FORMAT):
            raise NotDeserialisable(
                f"expected {cls.__name__} of format {FORMAT}, found {found[0]} of format {found[1]}"
            )
        try:
            return cls.of(head, frames)
        except (msgspec.ValidationError, KeyError, ValueError) as error:
            raise NotDeserialisable(f"this is no {cls.__name__}: {str(error)[:120]}") from None


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():  # pyright: ignore[reportUnknownVariableType]
            yield from _floats(inner)


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise NotDeserialisable(f"this is no JSON object: {str(error)[:120]}") from None
