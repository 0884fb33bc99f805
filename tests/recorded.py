"""Recorded market data that lies beside the checkout; tests that need it skip visibly where it is absent."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def recorded(name: str) -> Path:
    """Return the path of one recorded file or folder, or skip the test."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"recorded data {name} is not beside this checkout")
    return path
