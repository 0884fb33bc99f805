"""Up to which moment the database proves all trades that the journal claims: what the journal need not keep any more.

The collector alone writes the journal and knows no database; whoever fills the database leaves one small file a symbol in
the journal's folder. Without it nothing is dropped, however old.
"""

from collections.abc import Sequence
from pathlib import Path

from trading.stream.contiguity import IdRange


def verified_until_ms(claimed: Sequence[IdRange], held: Sequence[IdRange]) -> int:
    """Return the exchange time before which `held` has everything that is `claimed`; 0 where it lacks the first of it."""
    until_ms = 0
    for claim in claimed:
        having = [h for h in held if h.first_id <= claim.first_id <= h.last_id + 1]
        if not having:
            break
        until_ms = min(having[-1].proven_until_ms, claim.proven_until_ms)
        if having[-1].last_id < claim.last_id:
            break
    return until_ms


def note_verified(journal: Path, symbol: str, until_ms: int) -> None:
    """Leave word for the collector."""
    folder = journal / "verified"
    folder.mkdir(exist_ok=True)
    unfinished = folder / f".{symbol}"
    unfinished.write_text(str(until_ms), encoding="ascii")
    unfinished.replace(folder / symbol)


def verified(journal: Path, symbol: str) -> int:
    """Return what was left, or 0."""
    try:
        return int((journal / "verified" / symbol).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
