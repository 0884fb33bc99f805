"""Dagster's folder inside a home, and the environment in which its processes run."""

import os
import shutil
import sys
from pathlib import Path

from resources.home import Home
from resources.servers import Urls

CHECKOUT = Path(__file__).resolve().parents[1]


def prepare_dagster_home(home: Home) -> Path:
    """Put this checkout's `dagster.yaml` into the home and return the folder."""
    home.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CHECKOUT / "dagster.yaml", home.dagster_home / "dagster.yaml")
    return home.dagster_home


def dagster_environment(home: Home, urls: Urls) -> dict[str, str]:
    """Return the environment of a process that loads the definitions or runs a job on this home."""
    return {
        **os.environ,
        "DAGSTER_HOME": str(prepare_dagster_home(home)),
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        "TRADING_DAGSTER_URL": urls.dagster,
        "TRADING_HOME": str(home.path),
        "NUMBA_CACHE_DIR": str(home.numba_dir),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
