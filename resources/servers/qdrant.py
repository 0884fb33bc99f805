"""The home's Qdrant: one process owns the Qdrant Edge shards and answers the part of Qdrant's REST API that we use."""

import json
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Final

from resources.home import Home
from resources.servers import process

PROGRAM: Final = "resources.qdrant_owner"


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
    if process.taken_over("qdrant", home.run_dir, PROGRAM, home.qdrant_dir, lambda: _answers(home)):
        return
    ready = _ready_file(home)
    ready.unlink(missing_ok=True)
    home.qdrant_dir.mkdir(exist_ok=True)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", PROGRAM, home.qdrant_dir, ready]
    process.launch(
        "qdrant", home.run_dir, home.logs_dir / "qdrant.log", command, lambda: _answers(home), env=environment
    )


def stop(home: Home) -> None:
    """Stop the owner; it flushes its shards."""
    process.end("qdrant", home.run_dir)
    _ready_file(home).unlink(missing_ok=True)


def check(url: str) -> str:
    """Return what is wrong with a server elsewhere, empty if nothing."""
    try:
        with urllib.request.urlopen(url, timeout=4) as answer:  # noqa: S310
            titled = json.loads(answer.read(65536))
    except (urllib.error.URLError, OSError, HTTPException) as error:
        return str(error)
    except ValueError:
        return "what answers there is not Qdrant"
    return "" if isinstance(titled, dict) and "qdrant" in str(titled.get("title")) else "what answers is not Qdrant"


def _answers(home: Home) -> bool:
    return _ready_file(home).exists() and not check(url(home))
