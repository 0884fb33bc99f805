"""Dagster's folder inside a home, and the environment in which its processes run.

No Dagster here: commands prepare the folder and start Dagster's processes without waiting for it to import.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from resources.home import Home

CHECKOUT: Final = Path(__file__).resolve().parents[1]
EVENT_BATCH: Final = "1000"
"""Planned events are written as one statement for so many; the default is one each."""


def prepare_dagster_home(home: Home) -> Path:
    """Put this checkout's `dagster.yaml` into the home and return the folder."""
    home.dagster_home.mkdir(parents=True, exist_ok=True)
    # Another process may be reading the one that is there.
    unfinished = home.dagster_home / f"dagster.yaml.{os.getpid()}"
    shutil.copyfile(CHECKOUT / "dagster.yaml", unfinished)
    unfinished.replace(home.dagster_home / "dagster.yaml")
    return home.dagster_home


def dagster_environment(home: Home, dagster_url: str) -> dict[str, str]:
    """Return the environment of a process that loads the definitions or runs a job on this home."""
    return {
        **os.environ,
        "DAGSTER_HOME": str(prepare_dagster_home(home)),
        "DAGSTER_EVENT_BATCH_SIZE": EVENT_BATCH,
        "TRADING_DAGSTER_URL": dagster_url,
        "TRADING_HOME": str(home.path),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
