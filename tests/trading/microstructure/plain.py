"""The measures once more, row by row in exact numbers and without a line of the code under test."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median

Row = tuple[int, int, int, bool]
"""Time, ticks, lots, buyer is maker."""
Levels = list[list[int]]
Bin = tuple[int, int, int, int, int]
"""Lower and upper edge in ticks, lots bought, lots sold, trades."""


def profile(rows: Iterable[Row], lo_ms: int, hi_ms: int, size: int | None) -> tuple[list[Bin], int, int, int]:
    """Return the bins, and the places of the point of control and of both ends of the value area."""
    inside = [row for row in rows if lo_ms <= row[0] < hi_ms]
    ticks = [row[1] for row in inside]
    size = size or max(10, -((min(ticks) - max(ticks)) // 100))
    bins = []
    for place in range(min(ticks) // size, max(ticks) // size + 1):
        held = [row for row in inside if row[1] // size == place]
        bought = sum(lots for _, _, lots, sold in held if not sold)
        sold = sum(lots for _, _, lots, sold in held if sold)
        bins.append((place * size, (place + 1) * size, bought, sold, len(held)))
    lots = [b[2] + b[3] for b in bins]
    middle = Fraction(len(bins) - 1, 2)
    control = sorted(range(len(bins)), key=lambda i: (-lots[i], abs(i - middle), i))[0]
    first = last = control
    while sum(lots[first : last + 1]) < Fraction(7, 10) * sum(lots):
        up = last + 1 < len(bins) and (first == 0 or lots[last + 1] >= lots[first - 1])
        first, last = (first, last + 1) if up else (first - 1, last)
    return bins, control, first, last


def vacuums(bins: Sequence[tuple[int, int, int]], share: Fraction) -> list[tuple[int, int, Fraction, Fraction]]:
    """Return lower and upper edge, mean lots of a thin bin and median lots, of bins (lower edge, upper edge, lots)."""
    usual = [b[2] for b in bins if b[2]]
    if not usual:
        return []
    middle = Fraction(median([Fraction(lots) for lots in usual]))
    groups: list[list[tuple[int, int, int]]] = []
    for thin in [b for b in bins if b[2] < share * middle]:
        near = groups and 1_000 * (thin[0] - groups[-1][-1][1]) < groups[-1][-1][1]
        if groups and (near or thin[0] == groups[-1][-1][1]):
            groups[-1].append(thin)
        else:
            groups.append([thin])
    return [(g[0][0], g[-1][1], Fraction(sum(b[2] for b in g), len(g)), middle) for g in groups]


def flow(rows: Iterable[Row], lo_ms: int, hi_ms: int) -> tuple[int, int, int]:
    """Return trades, lots bought and lots sold."""
    inside = [row for row in rows if lo_ms <= row[0] < hi_ms]
    return len(inside), sum(r[2] for r in inside if not r[3]), sum(r[2] for r in inside if r[3])


def absorptions(snapshots: Sequence[tuple[int, Levels, Levels]], rows: Sequence[Row]) -> set[tuple[str, int, int, int]]:
    """Return side, ticks, refills and lots absorbed, of snapshots (time, bids, asks)."""
    found = set()
    for side in (1, 2):
        half = median([Fraction(lots) for s in snapshots for _, lots in s[side][:20]] or [Fraction(0)])
        refills: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for before, after in pairwise(snapshots):
            if not 0 < after[0] - before[0] <= 1_500:
                continue
            taken = [r for r in rows if before[0] <= r[0] < after[0] and r[3] == (side == 1)]
            for tick, lots in before[side][:20]:
                traded = sum(r[2] for r in taken if r[1] == tick)
                remaining = sum(left for at, left in after[side][:20] if at == tick)
                if 5 * traded > lots and 5 * remaining >= 4 * lots:
                    refills[tick].append((traded, remaining))
        for tick, seconds in refills.items():
            if len(seconds) >= 3 and sum(left for _, left in seconds) > 5 * half * len(seconds):
                found.add(("bid" if side == 1 else "ask", tick, len(seconds), sum(traded for traded, _ in seconds)))
    return found


def collapses(snapshots: Sequence[tuple[int, Levels, Levels]], rows: Sequence[Row]) -> set[tuple[str, int, Fraction]]:
    """Return side, time after and share cancelled of the seconds in which depth went by cancels; spread not asked."""
    found = set()
    for before, after in pairwise(snapshots):
        for side in (1, 2):
            depth, left = (sum(lots for _, lots in s[side][:20]) for s in (before, after))
            if not 0 < after[0] - before[0] <= 1_500 or depth == 0 or 10 * (depth - left) <= 8 * depth:
                continue
            traded = sum(r[2] for r in rows if before[0] <= r[0] < after[0] and r[3] == (side == 1))
            cancelled = Fraction(max(depth - left - traded, 0), depth - left)
            if cancelled > Fraction(9, 10):
                found.add(("bid" if side == 1 else "ask", after[0], cancelled))
    return found


def icebergs(
    book: tuple[Levels, Levels], diffs: Sequence[tuple[Levels, Levels]], rows: Iterable[Row]
) -> dict[tuple[str, int], int]:
    """Return refills by side and ticks."""
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    for sides in (book, *diffs):
        for side, levels in zip(("bid", "ask"), sides, strict=True):
            for tick, lots in levels:
                seen[side, tick].append(lots)
    executed: Counter[tuple[str, int]] = Counter()
    for _, tick, lots, sold in rows:
        executed["bid" if sold else "ask", tick] += lots
    refills = {}
    for key in executed.keys() & seen.keys():
        shown = seen[key]
        steps = [b - a for a, b in pairwise(shown) if b != a]
        refills[key] = sum(a < 0 < b for a, b in pairwise(steps))
    if not refills:
        return {}
    counts = [Fraction(n) for n in refills.values()]
    middle = median(counts)
    usual, spread = max(middle, Fraction(1)), Fraction("1.4826") * median([abs(n - middle) for n in counts])
    deviation = max(spread, usual / 5)
    return {
        key: n
        for key, n in refills.items()
        if n > 5 * usual and (n - usual) / deviation > Fraction("1.96") and executed[key] > max(seen[key])
    }


def fill(levels: Levels, unit: int, notional: int) -> tuple[Fraction, Fraction] | None:
    """Return lots filled and average ticks of an order of `notional`, or None where levels do not hold it."""
    left, lots = Fraction(notional * unit), Fraction(0)
    for tick, available in levels:
        here = min(Fraction(available), left / tick)
        lots, left = lots + here, left - here * tick
    return None if left else (lots, notional * unit / lots)
