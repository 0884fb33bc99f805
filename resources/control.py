"""The control socket of a journal's writer: one line asks, one line answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from resources.rocksdb import control_socket


@asynccontextmanager
async def controlled(directory: Path, commands: Mapping[str, Callable[[], str]]) -> AsyncIterator[None]:
    """Answer commands on the socket of a journal until the end of the block.

    Args:
        directory: The journal's folder.
        commands: What answers, by command. Readers send `checkpoint` and expect `ok` and the checkpoint's name.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readline()).decode(errors="replace").strip()
        try:
            said = commands[asked]() if asked in commands else "error unknown command"
        except Exception as error:  # who asked is told; the owner remembers what must end it
            said = f"error {error}"
        writer.write(said.encode() + b"\n")
        await writer.drain()
        writer.close()

    path = control_socket(directory)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, str(path))
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
