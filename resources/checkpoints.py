"""The checkpoints of a RocksDB directory: numbered folders, the newest of which `CURRENT` names.

Its writer makes them, when it is asked and when it stops; two are kept, so that a reader may still open the one before.
What a checkpoint holds is `resources.rocksdb`'s.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

KEPT: Final = 2
CONTROL_TIMEOUT_S: Final = 10


def current(directory: Path) -> Path | None:
    """Return the newest checkpoint that is there."""
    named = directory / "checkpoints" / "CURRENT"
    found = named.parent / named.read_text(encoding="utf-8").strip() if named.exists() else None
    return found if found is not None and found.is_dir() else None


def age_s(directory: Path) -> float:
    """Return how many seconds ago the newest checkpoint was made."""
    return max(0.0, time.time() - (directory / "checkpoints" / "CURRENT").stat().st_mtime)


def requested(directory: Path, control: Path) -> Path | None:
    """Return the checkpoint that a living writer makes on request; None where none answers in `CONTROL_TIMEOUT_S`."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONTROL_TIMEOUT_S)
            client.connect(str(control))
            client.sendall(b"checkpoint\n")
            answer = client.recv(4096).decode().split()
            return directory / "checkpoints" / answer[1] if answer[:1] == ["ok"] else None
    except OSError:
        return None


def replace(directory: Path, create: Callable[[Path], None]) -> Path:
    """Have the next checkpoint created, point `CURRENT` to it, drop all but `KEPT`, and return its folder."""
    folder = directory / "checkpoints"
    folder.mkdir(exist_ok=True)
    numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    made = folder / str(numbers[-1] + 1 if numbers else 1)
    create(made)
    publish(folder / "CURRENT", made.name)
    for number in numbers[: len(numbers) + 1 - KEPT]:
        shutil.rmtree(folder / str(number), ignore_errors=True)
    return made


def publish(file: Path, text: str) -> None:
    """Replace a small file, so that the loss of power leaves the old content or the new one."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
