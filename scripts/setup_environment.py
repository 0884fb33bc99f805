"""Install the locked requirements and this checkout into a virtual environment, with Python and pip alone.

Usage: `python3 scripts/setup_environment.py .venv`. Rerunning on a complete environment is cheap.
"""

import subprocess
import sys
import venv
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)


def run(*command: str | Path) -> None:
    """Run one step; its output appears only when it fails."""
    step = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if step.returncode:
        sys.exit(f"{' '.join(str(word) for word in command[:6])} … failed:\n{step.stdout[-2000:]}{step.stderr[-4000:]}")


def main(folder: Path) -> None:
    """Create the environment in `folder` and mark it ready."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(f"Python {sys.version.split()[0]} is not supported; run make with PYTHON=python3.11, 3.12 or 3.13")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    print("Installing the locked requirements into .venv (about a minute the first time)", file=sys.stderr)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", "requirements.lock")
    # The checkout itself adds only its import path and the console script; it has no requirements left to resolve.
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    # Not every installer leaves bytecode, and a process that may write none would compile all of Dagster at each start.
    subprocess.run([python, "-m", "compileall", "-q", "-q", "-j", "0", folder / "lib"], check=False)
    run(python, "-m", "resources.kernels")
    (folder / ".ready").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
