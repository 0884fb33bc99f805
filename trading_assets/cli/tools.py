"""`trading tools`: what agents may ask of a market, asked here or served to them over MCP."""

import inspect
import json
import os
from typing import Annotated, Any

import typer

from trading_assets.cli.options import HomeOption, Json, home_path
from trading_assets.cli.output import emit, speaking_plainly

app = typer.Typer(no_args_is_help=True, help="What agents may ask of a market; served over MCP or asked here.")


@app.command("list")
def list_tools(as_json: Json = False) -> None:
    """List the tools with their arguments."""
    with speaking_plainly(as_json):
        from trading_assets.tools.answers import TOOLS, Markets

        rows = []
        for name, method in TOOLS.items():
            question = getattr(Markets, method)
            arguments = [p for p in inspect.signature(question).parameters.values() if p.name != "self"]
            what = (inspect.getdoc(question) or "").partition("\n")[0]
            rows.append({"tool": name, "arguments": [str(argument) for argument in arguments], "answers": what})
            if not as_json:
                typer.echo(f"{name}\n  {what}\n  {', '.join(str(argument) for argument in arguments)}")
        emit({"tools": rows}, as_json)


@app.command()
def ask(
    tool: Annotated[str, typer.Argument(help="Name of a tool; 'trading tools list' shows them.")],
    symbol: Annotated[str, typer.Argument(help="Exchange name, e.g. BTCUSDT.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="More arguments, as name=value.")] = None,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Ask one tool."""
    with speaking_plainly(as_json):
        from resources.stores import open_stores
        from trading_assets.tools.answers import Markets, method_of, typed

        method = method_of(tool)
        with open_stores(home_path(home)) as stores:
            question = getattr(Markets(stores), method)
            answer: dict[str, Any] = question(symbol, **typed(question, arguments or []))
        if not as_json and (markdown := answer["result"].get("markdown")):
            typer.echo("\n".join([*(f"! {warning}" for warning in answer["warnings"]), markdown]))
        elif not as_json:
            typer.echo(json.dumps(answer, indent=2))
        emit(answer, as_json)


@app.command()
def serve(
    http: Annotated[
        bool, typer.Option("--http", help="Over HTTP on loopback instead of standard input and output.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the HTTP server; 0: any.")] = 8765,
    home: HomeOption = None,
) -> None:
    """Serve the tools over MCP, to one client on standard input and output or to many over HTTP."""
    with speaking_plainly(as_json=False):
        from resources.stores import open_stores
        from trading_assets.tools.answers import Markets
        from trading_assets.tools.server import serve_http, serve_stdio, token_of

        with open_stores(home_path(home)) as stores:
            markets = Markets(stores)
            if not http:
                serve_stdio(markets)
                return
            token = os.environ.get("TRADING_TOOLS_TOKEN") or token_of(stores.home.run_dir)
            serve_http(markets, token, port, lambda at: typer.echo(f"tools at http://127.0.0.1:{at}/mcp", err=True))
