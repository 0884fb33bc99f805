"""`trading plot`: charts as HTML files that any browser shows, offline."""

from pathlib import Path
from typing import Annotated

import typer

from trading.market.timeframe import Timeframe
from trading_assets.cli.options import HomeOption, Json, OneSymbol, home_path, moment_ms
from trading_assets.cli.output import emit, speaking_plainly

app = typer.Typer(no_args_is_help=True, help="Charts of what the stores hold, as HTML files.")

Symbol = Annotated[str, typer.Argument(help="Exchange name, e.g. BTCUSDT.")]
Out = Annotated[Path | None, typer.Option("--out", help="HTML file to write; default: named after what it shows.")]
Start = Annotated[str | None, typer.Option(help="First moment, UTC.")]
End = Annotated[str | None, typer.Option(help="Moment before which it ends, UTC.")]


@app.command()
def candles(
    symbol: Symbol,
    timeframe: Annotated[Timeframe, typer.Option(help="Of the bars.")] = Timeframe.H1,
    bars: Annotated[int, typer.Option(help="How many, up to the end, where no --start is given.")] = 240,
    start: Start = None,
    end: End = None,
    out: Out = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Candles with volume, with every hole, and with where each bar came from."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli import plot

        with open_stores(home_path(home)) as stores:
            window = (_moment(start, "--start"), _moment(end, "--end"))
            html, shown = plot.candles(stores.market, symbol, timeframe, *window, bars)
        _write(html, out or Path(f"{symbol}-candles-{timeframe}.html"), shown, as_json)


@app.command()
def profile(
    symbol: Symbol,
    start: Start = None,
    end: End = None,
    out: Out = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """How much was bought and sold at which price; by default in the last 24 hours that are held."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli import plot

        with open_stores(home_path(home)) as stores:
            html, shown = plot.profile(stores.market, symbol, _moment(start, "--start"), _moment(end, "--end"))
        _write(html, out or Path(f"{symbol}-profile.html"), shown, as_json)


@app.command()
def coverage(
    symbol: OneSymbol = "",
    start: Start = None,
    end: End = None,
    out: Out = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """What is there by day and dataset; by default of the last 30 days."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.cli import gaps, plot

        with open_stores(home_path(home)) as stores:
            names = gaps.symbols_of(stores, symbol)
            rows, _ = gaps.covered(stores, names, _moment(start, "--start"), _moment(end, "--end"))
            html, shown = plot.coverage(rows, stores.venue)
        _write(html, out or Path(f"{symbol or 'all'}-coverage.html"), shown, as_json)


def _moment(text: str | None, option: str) -> int | None:
    return moment_ms(text, 0, option) if text else None


def _write(html: str, out: Path, shown: dict[str, object], as_json: bool) -> None:
    from resources.whole_file import whole_file

    with whole_file(out) as unfinished:
        unfinished.write_text(html, encoding="utf-8")
    if not as_json:
        typer.echo(f"{out}: {', '.join(f'{name} {value}' for name, value in shown.items() if value)}")
    emit({"out": str(out), **shown}, as_json)
