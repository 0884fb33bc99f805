"""Nothing may be dropped that the database does not prove."""

from pathlib import Path

import pytest

from resources.retention import note_verified, verified, verified_until_ms
from trading.stream.contiguity import IdRange

A, B = IdRange(10, 19, 1_000, 2_000), IdRange(30, 39, 3_000, 4_000)


@pytest.mark.parametrize(
    ("held", "until_ms"),
    [
        ([], 0),
        ([B], 0),
        ([A], 2_000),
        ([IdRange(10, 14, 1_000, 1_500)], 1_500),
        ([IdRange(10, 14, 1_000, 1_500), B], 1_500),
        ([IdRange(5, 19, 500, 2_000), B], 4_000),
        ([A, IdRange(30, 35, 3_000, 3_500)], 3_500),
        ([IdRange(0, 99, 0, 9_000)], 4_000),
    ],
)
def test_only_what_the_database_holds_from_the_first_claim_on_is_verified(held: list[IdRange], until_ms: int) -> None:
    assert verified_until_ms([A, B], held) == until_ms


def test_word_is_left_by_symbol(tmp_path: Path) -> None:
    assert verified(tmp_path, "币安人生USDT") == 0
    note_verified(tmp_path, "币安人生USDT", 5)
    note_verified(tmp_path, "币安人生USDT", 7)
    assert (verified(tmp_path, "币安人生USDT"), verified(tmp_path, "BTCUSDT")) == (7, 0)
    (tmp_path / "verified" / "BTCUSDT").write_text("nonsense")
    assert verified(tmp_path, "BTCUSDT") == 0
