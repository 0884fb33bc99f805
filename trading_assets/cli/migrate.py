"""The schema of the market database: `trading migrate plan`, `apply` and `verify`.

Every command that opens the database applies what is missing; these say what that would be, do it alone, and look whether
server and schema are what the program needs.
"""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from trading_assets.cli.options import HomeOption, Json, home_path
from trading_assets.cli.output import emit, speaking_plainly

if TYPE_CHECKING:
    from resources.timescale.server import Finding

T = TypeVar("T")
app = typer.Typer(no_args_is_help=True, help="The schema of the market database.")


@app.command()
def plan(home: HomeOption = None, as_json: Json = False) -> None:
    """Say which files of the schema would be applied; changes nothing."""
    with speaking_plainly(as_json):
        from resources.timescale.migrations import backend_of, migrations, pending

        async def missing(connection: Any) -> tuple[str, list[str]]:
            backend = await backend_of(connection)
            return backend.value, [file.name for file in await pending(connection, migrations(backend))]

        backend, names = _connected(home, missing)
        if not as_json:
            typer.echo("\n".join([f"{backend}: {len(names)} files to apply", *names]))
        emit({"backend": backend, "pending": names}, as_json)


@app.command()
def apply(home: HomeOption = None, as_json: Json = False) -> None:
    """Apply what is missing; of several processes one does it, the others wait."""
    with speaking_plainly(as_json):
        from resources.timescale.migrations import apply, backend_of, migrations
        from resources.timescale.server import look_at, require

        async def applied(connection: Any) -> tuple[str, list[str]]:
            require(await look_at(connection))
            backend = await backend_of(connection)
            return backend.value, await apply(connection, migrations(backend))

        backend, names = _connected(home, applied)
        if not as_json:
            typer.echo("\n".join([f"{backend}: {len(names)} files applied", *names]))
        emit({"backend": backend, "applied": names}, as_json)


@app.command()
def verify(home: HomeOption = None, as_json: Json = False) -> None:
    """Look whether server, schema, partitions and jobs are what the program needs."""
    with speaking_plainly(as_json):
        from resources.timescale.server import findings

        found: list[Finding] = _connected(home, findings)
        if not as_json:
            for finding in found:
                typer.echo(f"{finding.what:12} {finding.found}{finding.trouble and ' — ' + finding.trouble}")
        emit({"findings": [vars(finding) for finding in found]}, as_json)
        if any(finding.trouble for finding in found):
            raise typer.Exit(1)


def _connected(home: Path | None, call: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run a call on a connection to the market database of a home."""
    import asyncpg

    from resources.home import Home
    from resources.servers import running
    from resources.settings import load_settings
    from resources.timescale.connections import SESSION
    from resources.timescale.loop import wait

    path = home_path(home)
    with running(Home(path), load_settings(path), ("postgres",)) as urls:

        async def once() -> T:
            connection = await asyncpg.connect(urls.postgres, timeout=10, server_settings=SESSION)
            try:
                return await call(connection)
            finally:
                await connection.close()

        return wait(once())
