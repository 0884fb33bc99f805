"""Compile `requirements.lock` from `pyproject.toml` for every supported Python and platform, or check that it is current."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
UV = Path(sysconfig.get_path("scripts")) / "uv"


def compile_to(output: Path) -> str:
    """Compile with the present lock as the preference, so that only what must change does."""
    command = [
        UV,
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--generate-hashes",
        "--extra",
        "dev",
        "--python-version",
    ]
    command += [
        "3.11",
        "--no-header",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-annotate",
        "--no-strip-extras",
    ]
    command += ["-o", output, ROOT / "pyproject.toml"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "UV_NO_CONFIG": "1"})
    return output.read_text(encoding="utf-8")


def main() -> None:
    """Write the lock, or with `--check` fail when compiling would change it."""
    if "--check" not in sys.argv:
        compile_to(LOCK)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "requirements.lock"
        copy.write_text(LOCK.read_text(encoding="utf-8"), encoding="utf-8")
        if compile_to(copy) != LOCK.read_text(encoding="utf-8"):
            sys.exit("requirements.lock does not match pyproject.toml; run 'make lock' and commit the result")


if __name__ == "__main__":
    main()
