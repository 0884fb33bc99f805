"""One event-loop thread a process, on which the asynchronous database clients run for synchronous callers."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _loop(pid: int) -> asyncio.AbstractEventLoop:  # a thread does not survive a fork, so each process has its own
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="database-loop", daemon=True).start()
    return loop


def wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop thread and return its result."""
    return begin(coroutine).result()


async def elsewhere(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop thread and await its result on the caller's loop."""
    return await asyncio.wrap_future(begin(coroutine))


def begin(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin a coroutine on the loop thread and return what will be its result."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))
