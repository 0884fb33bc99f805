"""A REST root is asked patiently: refusals are errors, waits are kept, failures are tried again."""

import asyncio
from collections.abc import Callable

import pytest

from resources.binance import BinanceRest, UnknownSymbol
from resources.rest_root import TRIES, ExchangeAnswer, ExchangeRefused
from tests.loopback import Answer, Asked, Loopback, loopback


def asked_time(server: Loopback) -> int:
    async def ask() -> int:
        rest = BinanceRest(server.root)
        try:
            return await rest.server_time()
        finally:
            await rest.close()

    return asyncio.run(ask())


def answering(answers: list[Answer]) -> Callable[[Asked], Answer]:
    """Answer one after the other, the last one for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


OK: Answer = (200, '{"serverTime":7}', {})


def test_a_failing_server_is_asked_again() -> None:
    with loopback(answering([(500, "", {}), (503, "<html>", {}), OK])) as server:
        assert asked_time(server) == 7
        assert server.paths == ["/api/v3/time"] * 3


@pytest.mark.parametrize("status", [418, 429])
def test_a_wait_is_kept_to_the_second(status: int) -> None:
    with loopback(answering([(status, "{}", {"Retry-After": "1"}), OK])) as server:
        assert asked_time(server) == 7
        first, second = (asked.at_s for asked in server.asked)
        assert second - first >= 0.95


def test_a_refusal_is_an_error_by_its_code_and_is_not_repeated() -> None:
    with loopback(answering([(400, '{"code":-1121,"msg":"Invalid symbol."}', {})])) as server:
        with pytest.raises(UnknownSymbol, match="Invalid symbol"):
            asked_time(server)
        assert len(server.asked) == 1


def test_a_refusal_that_is_a_page_says_its_status() -> None:
    with loopback(answering([(403, "<html>", {})])) as server, pytest.raises(ExchangeRefused, match="HTTP 403"):
        asked_time(server)


def test_a_page_instead_of_json_is_named() -> None:
    with loopback(answering([(200, "<html>", {})])) as server, pytest.raises(ExchangeAnswer, match="not JSON"):
        asked_time(server)


def test_a_server_that_never_recovers_is_given_up() -> None:
    with loopback(answering([(500, "", {})])) as server:
        with pytest.raises(ExchangeRefused, match=f"HTTP 500 after {TRIES} tries"):
            asked_time(server)
        assert len(server.asked) == TRIES


def test_nobody_there_is_said_with_the_setting_to_check() -> None:
    with loopback(answering([OK])) as server:
        gone = Loopback(server.root)
    with pytest.raises(ExchangeRefused, match="TRADING_EXCHANGE_REST_URL"):
        asked_time(gone)
