"""A websocket on which only text is read; binary messages, which no exchange sends here, are handed aside as they came.

`recv(decode=False)` returns the bytes of either kind, and text that is not UTF-8 must not end a connection: so the kind is
told by the frames themselves.
"""

from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.frames import Frame, Opcode


class _TextSocket(ClientConnection):
    def __init__(self, *arguments: Any, aside: Callable[[bytes], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._aside = aside
        self._binary: list[bytes] | None = None

    def process_event(self, event: Any) -> None:
        """Take one frame; the parts of a binary message are put together here."""
        if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
            self._binary = []
        if self._binary is None or event.opcode not in (Opcode.BINARY, Opcode.CONT):
            super().process_event(event)
            return
        self._binary.append(bytes(event.data))
        if event.fin:
            self._aside(b"".join(self._binary))
            self._binary = None


def listening(
    url: str, aside: Callable[[bytes], None], *, ping_s: float | None = 3, most_bytes: int = 2**20
) -> connect:
    """Return a connection to be entered by `async with`, on which `recv(decode=False)` brings text alone.

    Args:
        url: Where to.
        aside: Called with each binary message.
        ping_s: How often the protocol's ping is sent, and how long its answer may take; None: never.
        most_bytes: Of one message; a longer one ends the connection.
    """

    def made(*arguments: Any, **options: Any) -> ClientConnection:
        return _TextSocket(*arguments, aside=aside, **options)

    return connect(
        url,
        create_connection=cast("type[ClientConnection]", made),
        max_size=most_bytes,
        max_queue=1024,
        ping_interval=ping_s,
        ping_timeout=ping_s,
        close_timeout=1,
        open_timeout=10,
    )
