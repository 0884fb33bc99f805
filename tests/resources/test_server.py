"""A server on which the market database cannot live is refused by name, and one on which it lives can be looked at."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner

from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from resources.timescale.loop import wait
from resources.timescale.migrations import Backend, migrations
from resources.timescale.server import (
    Finding,
    Server,
    ServerTooOld,
    WrongTimeZone,
    findings,
    require,
)
from resources.timescale.store import MarketStore
from resources.timescale.trouble import ServerInRecovery, ServerReadOnly
from tests.databases import database, timescale
from trading_assets.cli.main import app

GOOD = Server(Backend.TIMESCALE, "16.14 (Debian 16.14-1)", "2.29.2", "timescale", "UTC", False, False)


@pytest.fixture(params=list(Backend))
def laid(request: pytest.FixtureRequest) -> Iterator[MarketStore]:
    """A market database on each kind of server."""
    with ExitStack() as stack:
        if request.param is Backend.TIMESCALE:
            dsn = stack.enter_context(timescale())
        else:
            dsn = stack.enter_context(database(request.getfixturevalue("postgres"), Backend.PLAIN))
        yield stack.enter_context(MarketStore(dsn, "sim"))


def looked(store: MarketStore) -> dict[str, Finding]:
    return {finding.what: finding for finding in store._run(findings)}


def troubles(store: MarketStore) -> dict[str, str]:
    return {what: finding.trouble for what, finding in looked(store).items() if finding.trouble}


def test_versions_that_lack_something_and_other_editions_are_refused() -> None:
    require(GOOD)
    for licence in ("", "apache"):
        require(replace(GOOD, backend=Backend.PLAIN, timescale="", licence=licence))
    require(replace(GOOD, postgres="19beta2", timescale="2.30.0-dev"))
    for old in ({"postgres": "15.12"}, {"timescale": "2.28.3"}, {"licence": "apache"}):
        with pytest.raises(ServerTooOld):
            require(replace(GOOD, **old))


def test_a_read_only_database_is_refused(postgres: str) -> None:
    with database(postgres, Backend.PLAIN) as dsn:
        name = dsn.partition("?")[0].rpartition("/")[2]
        with MarketStore(dsn, "sim") as store:
            store.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        with pytest.raises(ServerReadOnly, match="takes no writes"), MarketStore(dsn, "sim"):
            pass


def test_a_server_that_overrides_the_time_zone_is_refused(postgres: str) -> None:
    with database(postgres, Backend.PLAIN) as dsn:
        with MarketStore(dsn, "sim") as store:
            store.execute(
                "CREATE FUNCTION at_home() RETURNS event_trigger LANGUAGE plpgsql "
                "AS $$ BEGIN SET timezone = 'Europe/Berlin'; END $$; "
                "CREATE EVENT TRIGGER at_home ON login EXECUTE FUNCTION at_home(); ALTER EVENT TRIGGER at_home ENABLE ALWAYS"
            )
        with pytest.raises(WrongTimeZone, match="Europe/Berlin"), MarketStore(dsn, "sim"):
            pass


def test_a_server_in_recovery_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    settings = load_settings(home.path, {})
    with running(home, settings, ("postgres",)):
        pass
    (home.postgres_dir / "standby.signal").touch()
    with (
        running(home, settings, ("postgres",)) as urls,
        pytest.raises(ServerInRecovery, match="replica"),
        MarketStore(urls.postgres, "sim"),
    ):
        pass


def test_a_database_that_was_just_laid_is_as_it_should_be(laid: MarketStore) -> None:
    found = looked(laid)
    assert not troubles(laid)
    assert found["server"].found.startswith("timescale" if "jobs" in found else "plain")
    print(*found.values(), sep="\n")


def test_a_schema_that_is_another_or_not_whole_is_found(laid: MarketStore) -> None:
    last = migrations(Backend.PLAIN)[-1].name
    laid.execute("UPDATE md.schema_migration SET sha256 = 'x' WHERE name = '0001_market.sql'")
    assert "0001_market.sql says something else" in troubles(laid)["schema"]
    laid.execute("DELETE FROM md.schema_migration WHERE name = '0001_market.sql'")
    assert troubles(laid) == {"schema": "not applied yet: 0001_market.sql"}
    laid.execute("INSERT INTO md.schema_migration VALUES ('9999_later.sql', 'common', 'x', now(), 1)")
    assert "9999_later.sql" in troubles(laid)["schema"]
    assert last < "9999_later.sql"


def test_partitions_and_jobs_that_are_not_ours_are_found(laid: MarketStore) -> None:
    if "jobs" in looked(laid):
        laid.execute("SELECT add_retention_policy('md.candle', drop_after => interval '1 year')")
        laid.execute("CALL remove_columnstore_policy('md.trade')")
        jobs = "missing: policy_compression of trade; not ours: policy_retention of candle"
        assert troubles(laid) == {"jobs": jobs}
    else:
        laid.execute("DROP TABLE md.book_second CASCADE; CREATE TABLE md.book_second (LIKE md.book_second_revision)")
        laid.register([])
        laid.execute(
            "INSERT INTO md.symbol (venue, name, base, quote, kind, price_decimals, quantity_decimals) "
            "VALUES ('sim', 'A', 'A', 'B', 'spot', 2, 2)"
        )
        laid.execute("INSERT INTO md.rollup_dirty SELECT symbol_id, now(), now() + interval '1 hour' FROM md.symbol")
        assert troubles(laid) == {
            "partitions": "not partitioned: book_second",
            "roll-ups": "run: SELECT md.refresh_rollup('-infinity', 'infinity')",
        }


def test_the_command_plans_applies_and_verifies(postgres: str, tmp_path: Path) -> None:
    Home(tmp_path).create("simulated", {})

    def run(command: str, status: int = 0) -> dict[str, object]:
        done = CliRunner().invoke(app, ["migrate", command, "--home", str(tmp_path), "--json"], env=environment)
        assert done.exit_code == status, done.output
        return json.loads(done.stdout.splitlines()[-1])

    with database(postgres, Backend.PLAIN) as dsn:
        environment = {"TRADING_POSTGRES_URL": dsn}
        files = [file.name for file in migrations(Backend.PLAIN)]
        assert run("plan") == {"backend": "plain", "pending": files}
        assert run("verify", status=1)["findings"]
        assert run("apply") == {"backend": "plain", "applied": files}
        assert run("apply")["applied"] == run("plan")["pending"] == []
        assert not any(finding["trouble"] for finding in run("verify")["findings"])  # pyright: ignore
        connection = wait(asyncpg.connect(dsn))
        wait(connection.execute("UPDATE md.schema_migration SET sha256 = 'x' WHERE name = '0001_market.sql'"))
        wait(connection.close())
        assert str(run("apply", status=1)["error"]).startswith("SchemaRefused: 0001_market.sql says something else")
