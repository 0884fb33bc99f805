"""The home's Qdrant: one process owns the Qdrant Edge shards and answers the part of Qdrant's REST API that we use."""

import json
import os
import sys
import urllib.error
import urllib.request
from importlib.metadata import version as package_version
from pathlib import Path

from resources.home import Home
from resources.servers import process


def _ready_file(home: Home) -> Path:
    return home.run_dir / "qdrant.port.json"


def url(home: Home) -> str:
    """Return the owner's URL."""
    return f"http://127.0.0.1:{json.loads(_ready_file(home).read_text(encoding='utf-8'))['port']}"


def version(home: Home) -> str:
    """Return the engine's version."""
    return f"edge {package_version('qdrant-edge-py')}"


def ensure(home: Home) -> None:
    """Start the owner unless it runs."""
    if process.alive("qdrant", home.run_dir) is not None:
        return
    ready = _ready_file(home)
    ready.unlink(missing_ok=True)
    home.qdrant_dir.mkdir(exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "resources.qdrant_owner", home.qdrant_dir, ready]
    process.launch(
        "qdrant", home.run_dir, home.logs_dir / "qdrant.log", command, lambda: _answers(home), env=environment
    )


def stop(home: Home) -> None:
    """Stop the owner; it flushes its shards."""
    process.end("qdrant", home.run_dir)
    _ready_file(home).unlink(missing_ok=True)


def _answers(home: Home) -> bool:
    if not _ready_file(home).exists():
        return False
    try:
        with urllib.request.urlopen(url(home), timeout=2) as answer:  # noqa: S310
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
