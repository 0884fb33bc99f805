"""JSON that nobody would send."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from trading.stream.wire import BadFrame

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ANYTHING = st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))


def read_or_refused(decoders: Sequence[Callable[[bytes], Any]], body: bytes) -> set[str]:
    """Give a body to decoders, which may raise nothing but `BadFrame` with a reason; return the reasons."""
    reasons = set[str]()
    for decode in decoders:
        try:
            decode(body)
        except BadFrame as refused:
            assert refused.reason
            reasons.add(refused.reason)
    return reasons


def altered(frame: str, data: st.DataObject) -> bytes:
    """Return a frame with one value replaced by any other."""
    whole = json.loads(frame)
    place: Any = whole
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
            place[key] = data.draw(VALUES)
            break
        place = place[key]
    return json.dumps(whole).encode("utf-8", "surrogatepass")
