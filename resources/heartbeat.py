"""A collector's last sign of life, in a file of the home for whoever looks at it."""

import json
from pathlib import Path
from typing import Any


def heartbeat(run_dir: Path, stream: str) -> Path:
    """Return the file of one stream."""
    return run_dir / "heartbeat" / f"{stream}.json"


def last_said(run_dir: Path, stream: str) -> dict[str, Any]:
    """Return what a collector said last; nothing where there was none, or a loss of power emptied the file."""
    try:
        return json.loads(heartbeat(run_dir, stream).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
