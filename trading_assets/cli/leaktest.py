"""`trading leaktest`: whether an answer about the past changes with what came later, on the user's own data."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resources.stores import Stores


def leaktests(stores: "Stores", symbol: str, moments: int, seed: int) -> dict[str, Any]:
    """Test one symbol, or all; return what was found by symbol."""
    from resources.leaktest import leaktest

    symbols = [symbol] if symbol else list(stores.market.instruments())
    return {name: asdict(leaktest(stores.market, name, moments, seed)) for name in symbols}
