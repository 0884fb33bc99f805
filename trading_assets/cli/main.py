"""`trading`: the command line.

Every command takes `--json`; then the last line of standard output is one JSON object, errors included. Commands reach
the stores directly and Dagster by subprocess, so that none of them waits for Dagster to import.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trading.market.timeframe import DAY_MS
from trading_assets.cli import migrate, plot_commands, tools
from trading_assets.cli.options import HomeOption, Json, OneSymbol, SymbolOption, VenueOption, home_path, moment_ms
from trading_assets.cli.output import emit, refuse, speaking_plainly

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Market data you can prove.")
config = typer.Typer(no_args_is_help=True, help="Settings: value, origin, meaning.")
app.add_typer(config, name="config")
app.add_typer(tools.app, name="tools")
app.add_typer(migrate.app, name="migrate")
app.add_typer(plot_commands.app, name="plot")


@app.command()
def demo(
    home: HomeOption = None,
    days: Annotated[int, typer.Option(help="Days of history.")] = 180,
    end: Annotated[
        str | None, typer.Option(help="UTC day at whose start the demo ends; fixed by the first run.")
    ] = None,
    symbols: Annotated[str, typer.Option(help="Symbols, separated by commas (TRADING_SYMBOLS).")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic market (TRADING_SEED).")] = None,
    recording: Annotated[Path | None, typer.Option(help="Folder of recorded trades or klines to play instead.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole way once, from the wire to similar states, and end with a summary."""
    with speaking_plainly(as_json):
        from trading_assets.cli.demo import DemoRequest, run_demo

        wanted = tuple(name.strip().upper() for name in symbols.split(",") if name.strip())
        end_ms = moment_ms(end, 0, "--end") or None
        summary = run_demo(home_path(home), DemoRequest(days, end_ms, wanted, seed, recording), quiet=as_json)
        emit(summary, as_json)
        if summary["checks"]["failed"] or summary["failures"]:
            raise typer.Exit(1)


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(help="Port of the Dagster UI (TRADING_PORT).")] = 0,
    days: Annotated[int, typer.Option(help="Days of history to materialize first.")] = 30,
    as_json: Json = False,
) -> None:
    """Start servers, exchange, collectors and the Dagster UI; Ctrl-C stops all."""
    with speaking_plainly(as_json):
        from trading_assets.cli.up import up as run_up

        emit(run_up(home_path(home), port=port or None, days=days), as_json)


@app.command()
def leaktest(
    symbol: OneSymbol = "",
    moments: Annotated[int, typer.Option(min=1, help="How many moments are tried.")] = 20,
    seed: Annotated[int, typer.Option(help="Chooses them.")] = 0,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Try whether an answer about the past changes with what came later; nothing is kept of the noise."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli.leaktest import leaktests
        from trading_assets.cli.render import table_of

        with open_stores(home_path(home)) as stores:
            found = leaktests(stores, symbol, moments, seed)
        if not as_json:
            table_of("Answers about the past, before and after noise that comes later", found)
        emit(found, as_json)
        if any(one["leaks"] for one in found.values()):
            raise typer.Exit(1)


@app.command()
def status(home: HomeOption = None, as_json: Json = False) -> None:
    """Count what the stores hold as they stand."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli.render import table_of
        from trading_assets.cli.status import counts, digests, streams

        with open_stores(home_path(home)) as stores:
            answer = counts(stores) | {"streams": streams(stores.home)}
            if as_json:
                answer["digests"] = digests(stores)
        if not as_json:
            table_of("What the stores hold", answer)
        emit(answer, as_json)


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(help="agg_trades, candles, indicators, snapshots, outcomes or features.")],
    symbol: SymbolOption,
    out: Annotated[
        Path, typer.Option("--out", help="File to write, .csv or .parquet; the data folder with most a --format.")
    ],
    form: Annotated[
        str, typer.Option("--format", help="For backtests: freqtrade, freqtrade-json, nautilus or hftbacktest.")
    ] = "",
    timeframe: Annotated[str, typer.Option(help="Of candles and indicators.")] = "",
    start: Annotated[str | None, typer.Option(help="First moment, UTC.")] = None,
    end: Annotated[str | None, typer.Option(help="Moment before which it ends, UTC.")] = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Write what the stores hold to a file."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli.export import export as write

        lo_ms, hi_ms = moment_ms(start, 0, "--start"), moment_ms(end, 4_102_444_800_000, "--end")
        with open_stores(home_path(home)) as stores:
            if form:
                from trading_assets.cli.export_as import export_as

                told = export_as(form, stores.market, dataset, symbol, timeframe, (lo_ms, hi_ms), out)
            else:
                told = {"rows": write(stores.market, dataset, symbol, timeframe, lo_ms, hi_ms, out)}
        if not as_json:
            beside = f", {told['left_out']} incomplete ones left out" if told.get("left_out") else ""
            typer.echo(f"{told['rows']} rows of {dataset} in {told.get('file', out)}{beside}")
        emit({"dataset": dataset, "symbol": symbol, "out": str(out), **told}, as_json)


@app.command()
def backfill(
    symbol: Annotated[str, typer.Argument(help="Exchange name, e.g. BTCUSDT.")],
    start: Annotated[str, typer.Option(help="First UTC day, e.g. 2026-11-01.")],
    end: Annotated[str | None, typer.Option(help="UTC day before which it ends; default: one day.")] = None,
    from_trades: Annotated[bool, typer.Option("--from-trades", help="Bring the trades themselves.")] = False,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Bring past days into the database from the archive or over REST, and say which of them are proven."""
    with speaking_plainly(as_json):
        from trading_assets.cli.backfill import BadDays
        from trading_assets.cli.backfill import backfill as bring
        from trading_assets.cli.render import days_table

        if not from_trades:
            raise BadDays("only trades are brought by this command", "add --from-trades; klines come with the candles")
        first_ms = moment_ms(start, 0, "--start")
        end_ms = moment_ms(end, first_ms + DAY_MS, "--end")
        report = bring(home_path(home), symbol.upper(), first_ms, end_ms, quiet=as_json)
        if not as_json:
            days_table(report)
        emit(report, as_json)
        if report["refused"]:
            raise typer.Exit(1)


@app.command()
def similar(
    symbol: Annotated[str, typer.Argument(help="Exchange name, e.g. BTCUSDT.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Moment of the question, UTC; default: the last state.")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", "-k", min=1, max=1000, help="How many states (RAG_TOP_K).")] = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Find states like the one at a moment, with what came after them and was known by then."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli.render import neighbours_table
        from trading_assets.cli.similar import last_state
        from trading_assets.cli.similar import similar as search

        with open_stores(home_path(home)) as stores:
            stores.market.instrument(symbol)
            moment = moment_ms(as_of, last_state(stores, symbol), "--as-of")
            answer = search(stores, symbol, moment, k or stores.settings.top_k)
        if not as_json:
            neighbours_table(answer)
        emit(answer, as_json)


@app.command()
def gaps(
    symbol: OneSymbol = "",
    explain: Annotated[str, typer.Option(help="Ids to explain, FIRST-LAST; needs SYMBOL and --note.")] = "",
    note: Annotated[str, typer.Option(help="Why these ids are missing.")] = "",
    venue: VenueOption = "",
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """List ids that are missing, or that came over REST because the stream had not brought them."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli import gaps as command
        from trading_assets.cli import venues

        if venue:
            from resources.home import Home

            venues.require_venue(venue)
            if explain or note:
                raise command.BadExplanation(f"ids of {venue} prove nothing", "leave out --explain and --note")
            answer = venues.gaps(Home(home_path(home)), venue, symbol)
            if not as_json:
                venues.print_gaps(answer)
            return emit(answer, as_json)
        with open_stores(home_path(home)) as stores:
            names = command.symbols_of(stores, symbol)
            answer = command.gaps(stores, names)
            if explain or note:
                command.explain(stores, symbol, explain, note)
                answer = command.gaps(stores, names)
        if not as_json:
            command.print_gaps(answer)
        emit(answer, as_json)


@app.command()
def repair(home: HomeOption = None, as_json: Json = False) -> None:
    """Ask the exchange again for every id that is missing, those once found absent included."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli import gaps as command

        with open_stores(home_path(home)) as stores:
            answer = command.repair(stores, quiet=as_json)
        if not as_json:
            typer.echo(
                f"{answer['repaired']} trades came over REST; the exchange lacks {len(answer['absent'])} ranges of ids"
            )
        emit(answer, as_json)


@app.command()
def replay(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Send again what the database did not take (dead letters); what it refuses again stays, and the status is 1."""
    with speaking_plainly(as_json):
        from resources.home import Home
        from resources.stores import open_stores
        from trading_assets.cli import replay as command

        path, sent = home_path(home), {}
        Home(path).require()
        waiting = command.waiting(Home(path))
        if waiting and not dry_run:
            with open_stores(path) as stores:
                sent = command.replay(stores, quiet=as_json)
            waiting = command.waiting(Home(path))
            if not as_json:
                command.print_replayed(sent)
        refused = command.impossible(Home(path))
        if not as_json and (waiting or not sent):
            command.print_waiting(waiting, refused)
        emit({**sent, "waiting": waiting, "impossible": refused}, as_json)
        if waiting and not dry_run:
            raise typer.Exit(1)


@app.command()
def coverage(
    symbol: OneSymbol = "",
    start: Annotated[str | None, typer.Option(help="First UTC day; default: 30 days back.")] = None,
    end: Annotated[str | None, typer.Option(help="UTC day before which it ends; default: the present.")] = None,
    venue: VenueOption = "",
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Say what is there by symbol, day and dataset: available, degraded, pending, empty or missing."""
    with speaking_plainly(as_json):
        from trading_assets.cli import gaps as command
        from trading_assets.cli import venues

        lo_ms = moment_ms(start, 0, "--start") if start else None
        hi_ms = moment_ms(end, 0, "--end") if end else None
        legend = venues.UNPROVEN if venue else command.SIGNS
        if venue:
            from resources.home import Home

            answer = venues.coverage(Home(home_path(home)), venue, symbol, lo_ms, hi_ms)
        else:
            from resources.stores import open_stores

            with open_stores(home_path(home)) as stores:
                rows, summary = command.covered(stores, command.symbols_of(stores, symbol), lo_ms, hi_ms)
            answer = {"days": rows, "summary": summary}
        if not as_json:
            for warning in answer.get("warnings", ()):
                typer.echo(f"! {warning}")
            command.print_coverage(answer["days"], legend)
        emit(answer, as_json)


@app.command()
def stream(
    symbols: Annotated[list[str], typer.Argument(help="Exchange names, e.g. BTCUSDT.")],
    since: Annotated[str, typer.Option(help="From when: 1h back (s, m, h, d), or a date or time, UTC.")] = "0s",
    kinds: Annotated[
        str,
        typer.Option(
            help="Of trade, bar:1s … bar:1d, indicator:3m, indicator:4h, book, book:1s, gap, repair; by commas."
        ),
    ] = "trade",
    resume: Annotated[str, typer.Option(help="Go on where a former stream ended, as it said.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="End after so many events; 0: never.")] = 0,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Print what happens, history first and then live without a seam: each trade once and in order, one line an event."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli.stream import stream as follow

        names, wanted = [name.upper() for name in symbols], [kind.strip() for kind in kinds.split(",")]
        with open_stores(home_path(home)) as stores:
            emit({"resume": follow(stores, names, wanted, since, resume, limit, as_json)}, as_json)


@app.command()
def doctor(home: HomeOption = None, as_json: Json = False) -> None:
    """Say what runs, where, in which version, what is wrong and what to do."""
    with speaking_plainly(as_json):
        from dataclasses import asdict

        from resources.home import Home
        from resources.settings import load_settings
        from trading_assets.cli.doctor import doctor as examine
        from trading_assets.cli.render import findings_table

        path = home_path(home)
        findings = examine(Home(path), load_settings(path))
        if not as_json:
            findings_table(findings)
        rows: list[dict[str, Any]] = [asdict(finding) for finding in findings]
        emit({"findings": rows}, as_json)
        if any(row["state"] == "wrong" for row in rows):
            raise typer.Exit(1)


@app.command()
def bench(
    subject: Annotated[
        str, typer.Argument(help="trades, candles, profile, collector, indicators, store, live or all.")
    ] = "all",
    as_json: Json = False,
) -> None:
    """Measure hot paths: ours beside the naive way and beside the limit, results equal."""
    with speaking_plainly(as_json):
        from trading_assets.cli.bench import bench as measure

        emit(measure(subject, quiet=as_json), as_json)


@config.command("show")
def config_show(home: HomeOption = None, as_json: Json = False) -> None:
    """Show every setting with its value, where it comes from and what it means."""
    with speaking_plainly(as_json):
        from resources.settings import load_settings
        from trading_assets.cli.render import settings_table

        rows = load_settings(home_path(home)).describe()
        if not as_json:
            settings_table(rows)
        emit(
            {"settings": [dict(zip(("key", "value", "origin", "meaning"), row, strict=True)) for row in rows]}, as_json
        )


def main() -> None:
    """Run the command line."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        status = refuse(error, "--json" in sys.argv)
    sys.exit(status)


if __name__ == "__main__":
    main()
