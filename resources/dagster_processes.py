"""Dagster's processes on a home: a code server that loads the definitions, the daemon and the webserver.

Each is a session of its own, known by pid and start time, so that Ctrl-C in a terminal does not reach the workers
before they are told in the right order, and so that what a killed `trading up` left behind is found. Run workers are
children of the code server and share its session.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from resources.dagster_home import CHECKOUT
from resources.home import Home
from resources.servers import process

CODE_SERVER, DAEMON, WEBSERVER = "code-server", "dagster-daemon", "dagster-webserver"
ENDING_ORDER: Final = (DAEMON, WEBSERVER, CODE_SERVER)
LOADING_S: Final = 120
FLUSH_S: Final = 30
PR_SET_PDEATHSIG: Final = 1


class DagsterProcesses:
    """The three processes of one home.

    Args:
        home: The home.
        environment: Of the processes; see `resources.dagster_home`.
        port: Of the webserver, on loopback.
    """

    def __init__(self, home: Home, environment: Mapping[str, str], port: int) -> None:
        self._home, self._environment, self._port = home, dict(environment), port
        self._code = home.socket_dir / "code.sock"
        self._workspace = home.dagster_home / "workspace.yaml"

    def start(self, patience: Callable[[], None]) -> None:
        """Start them; returns once the definitions are loaded and the others have begun.

        Args:
            patience: Called while waiting; may raise to give up.

        Raises:
            ServerFailed: The code server ended; the message has the last line of its log.
        """
        self._workspace.write_text(
            "load_from:\n"
            f"  - grpc_server: {{host: localhost, socket: {json.dumps(str(self._code))}, location_name: trading}}\n",
            encoding="utf-8",
        )
        self._start_code_server(patience)
        for name in (DAEMON, WEBSERVER):
            self._launch(name)

    def revive(self, patience: Callable[[], None]) -> list[str]:
        """Start again what has died and return its names."""
        session = process.recorded(CODE_SERVER, self._home.run_dir)  # looking after a dead one deletes its record
        dead = [name for name in ENDING_ORDER if process.alive(name, self._home.run_dir) is None]
        if CODE_SERVER in dead:
            # Its workers would go on unseen by the new one, and two collectors would ask for one journal.
            end_workers(session)
            self._start_code_server(patience)
        for name in dead:
            if name != CODE_SERVER:
                self._launch(name)
        return dead

    def _start_code_server(self, patience: Callable[[], None]) -> None:
        self._code.unlink(missing_ok=True)
        self._launch(CODE_SERVER)
        deadline = time.monotonic() + LOADING_S
        # It listens once the definitions are loaded; the others would show an error if they came earlier.
        while not _listens(self._code):
            if process.alive(CODE_SERVER, self._home.run_dir) is None or time.monotonic() > deadline:
                raise process.ServerFailed(
                    f"the definitions do not load: {self.last_error(CODE_SERVER)}",
                    f"see {self._log(CODE_SERVER)}",
                )
            patience()
            time.sleep(0.05)

    def _launch(self, name: str) -> None:
        programs = Path(sys.executable).parent
        module = ["-m", "trading_assets.definitions", "-d", CHECKOUT, "--location-name", "trading"]
        command = {
            CODE_SERVER: [programs / "dagster", "api", "grpc", "-s", self._code, *module],
            DAEMON: [programs / "dagster-daemon", "run", "-w", self._workspace],
            WEBSERVER: [
                programs / "dagster-webserver",
                "-h",
                "127.0.0.1",
                "-p",
                str(self._port),
                "-w",
                self._workspace,
            ],
        }[name]
        process.launch(
            name,
            self._home.run_dir,
            self._log(name),
            command,
            ready=lambda: True,
            env=self._environment,
            cwd=CHECKOUT,
            preexec_fn=_as_child(os.getpid(), signal.SIGKILL if name == CODE_SERVER else signal.SIGTERM),
        )

    def _address(self) -> tuple[str, ...]:
        return ("-h", "127.0.0.1", "-p", str(self._port))

    def _log(self, name: str) -> Path:
        return self._home.logs_dir / f"{name}.log"

    def last_error(self, name: str) -> str:
        """Return the error that a process's log ends with."""
        return process.last_error(self._log(name))


def end_all(home: Home) -> None:
    """End Dagster's processes of a home, also those that a killed `trading up` left.

    Daemon and webserver first, so that nothing new is started; then the run workers, which flush; then the code server,
    and the worker that it was just starting.
    """
    session = process.recorded(CODE_SERVER, home.run_dir)
    for name in (DAEMON, WEBSERVER):
        process.end(name, home.run_dir)
    end_workers(session)
    process.end(CODE_SERVER, home.run_dir)
    end_workers(session)


def end_workers(session: tuple[int, float] | None) -> None:
    """Interrupt the run workers of a code server and wait for their flush; what does not end in time is killed."""
    found = workers(session)
    for worker in found:
        _tell(worker, signal.SIGINT)
    _, left = psutil.wait_procs(found, FLUSH_S)
    for worker in left:
        _tell(worker, signal.SIGKILL)
    psutil.wait_procs(left, FLUSH_S)


def workers(session: tuple[int, float] | None) -> list[psutil.Process]:
    """Return the run workers of a code server, which may be gone: its session without multiprocessing's own bookkeeper.

    Args:
        session: Pid and start time of the code server; None: there was none.
    """
    if session is None:
        return []
    server, started = session
    found = []
    for candidate in psutil.process_iter():
        try:
            if os.getsid(candidate.pid) != server or candidate.pid == server:
                continue
            if process.started_s(candidate.pid) >= started and "spawn_main" in " ".join(candidate.cmdline()):
                found.append(candidate)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def _tell(worker: psutil.Process, number: int) -> None:
    try:
        worker.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return path.exists() and probe.connect_ex(str(path)) == 0


def _as_child(parent: int, number: int) -> Callable[[], None]:
    """Return what a child does first: take signals as usual, and end with its parent where the system can do that.

    The code server is killed: told to end it waits for its runs, and for good where one dies after the database.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        # A Dagster process that was started with SIGINT ignored, as from a script's `&`, ignores SIGTERM too.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if library is not None:
            library.prctl(PR_SET_PDEATHSIG, number)
            if os.getppid() != parent:
                os._exit(1)

    return prepare
