"""One section of a market report is one measure written as lines of Markdown; what is null reads `unknown`."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.microstructure.anomalies import Absorption, FlashCrash
from trading.microstructure.diff_anomalies import Iceberg, QuoteStuffing
from trading.microstructure.health import WEIGHTS, MicrostructureHealth
from trading.microstructure.l1 import L1Metrics
from trading.microstructure.order_flow import OrderFlow
from trading.microstructure.vacuums import LiquidityVacuum, StopAdvice
from trading.microstructure.volume_profile import VALUE_AREA_PCT, VolumeProfile

HEAVIEST: Final = 5
"""Bins of a profile that a report names."""

NONE_FOUND: Final = ["None found."]


def top_of_book(l1: L1Metrics, instrument: Instrument) -> list[str]:
    """Write the best prices, balance, walls and the cost of market orders."""
    lines = _table(
        ("", "price", "quantity"),
        [
            ("best ask", _price(l1.best_ask, instrument), _quantity(l1.best_ask_quantity, instrument)),
            ("best bid", _price(l1.best_bid, instrument), _quantity(l1.best_bid_quantity, instrument)),
        ],
    )
    lines += ["", f"Spread {_number(l1.spread_bps, 4)} bps, microprice {_price(l1.microprice, instrument)}."]
    lines += [
        f"Top levels: {_quantity(l1.bid_volume, instrument)} bid, {_quantity(l1.ask_volume, instrument)} asked, "
        f"imbalance {_number(l1.imbalance, 3)}, ratio {_number(l1.imbalance_ratio, 3)}."
    ]
    walls = [
        (wall.side, _price(wall.price, instrument), _quantity(wall.quantity, instrument), f"{wall.medians:.1f}")
        for wall in l1.walls
    ]
    lines += ["", *(_table(("wall", "price", "quantity", "× median"), walls) if walls else ["No walls."])]
    orders = [
        (
            f"{order.taker} {order.notional:,.0f}",
            _price(order.average_price, instrument),
            _number(order.slippage_bps, 2),
            f"{100 * order.filled_notional / order.notional:.0f} %",
        )
        for order in l1.slippage
    ]
    return [*lines, "", *_table(("market order", "average price", "slippage bps", "filled"), orders)]


def volume_profile(profile: VolumeProfile, instrument: Instrument) -> list[str]:
    """Write the point of control, the value area and the heaviest prices."""
    heaviest = sorted(profile.bins, key=lambda b: (-b.volume, b.price_low))[:HEAVIEST]
    rows = [
        (
            f"{_price(b.price_low, instrument)} … {_price(b.price_high, instrument)}",
            _quantity(b.volume, instrument),
            f"{b.volume_pct:.1f} %",
            f"{100 * b.buy_volume / b.volume:.0f} %" if b.volume else "unknown",
        )
        for b in heaviest
    ]
    return [
        f"{profile.trade_count:,} trades, {_quantity(profile.total_volume, instrument)} from "
        f"{_price(profile.price_low, instrument)} to {_price(profile.price_high, instrument)}, in bins of "
        f"{_price(profile.bin_size, instrument)}.",
        f"Point of control {_price(profile.point_of_control, instrument)}; value area "
        f"{_price(profile.value_area_low, instrument)} … {_price(profile.value_area_high, instrument)} holds "
        f"{profile.value_area_pct:.1f} % (at least {VALUE_AREA_PCT} %).",
        "",
        *_table(("heaviest prices", "volume", "share", "bought"), rows),
    ]


def vacuums(found: Sequence[LiquidityVacuum], instrument: Instrument) -> list[str]:
    """Write the vacuums of one source."""
    rows = [
        (
            f"{_price(v.price_low, instrument)} … {_price(v.price_high, instrument)}",
            v.side or "traded",
            f"{v.deficit_pct:.1f} %",
            v.severity,
            v.expected_impact.replace("_", " "),
        )
        for v in found
    ]
    return _table(("prices", "side", "below median", "severity", "expected"), rows) if rows else NONE_FOUND


def stops(advices: Sequence[StopAdvice], instrument: Instrument) -> list[str]:
    """Write where stops stand."""
    rows = [
        (
            advice.position,
            _price(advice.stop_price, instrument),
            f"{advice.distance_pct:.2f} %",
            "no vacuum, usual distance"
            if advice.vacuum is None
            else f"vacuum {_price(advice.vacuum.price_low, instrument)} … {_price(advice.vacuum.price_high, instrument)}",
        )
        for advice in advices
    ]
    return _table(("position", "stop", "away", "beyond"), rows)


def order_flow(flow: OrderFlow, instrument: Instrument) -> list[str]:
    """Write what takers bought and sold."""
    rows = [
        ("bought", _quantity(flow.buy_volume, instrument), f"{flow.buy_rate:,.4f}"),
        ("sold", _quantity(flow.sell_volume, instrument), f"{flow.sell_rate:,.4f}"),
        ("delta", _quantity(flow.cumulative_delta, instrument), f"{flow.net_rate:,.4f}"),
    ]
    direction = "unknown" if flow.direction is None else flow.direction.replace("_", " ")
    return [
        f"{flow.trade_count:,} trades; direction {direction}, ratio {_number(flow.buy_sell_ratio, 3)}.",
        "",
        *_table(("takers", "volume", "a second"), rows),
    ]


def absorption(found: Sequence[Absorption], instrument: Instrument) -> list[str]:
    """Write the levels that absorbed."""
    rows = [
        (
            a.side,
            _price(a.price, instrument),
            _quantity(a.absorbed_volume, instrument),
            str(a.refill_count),
            a.direction,
            f"{_clock(a.first_detected_ms)} … {_clock(a.last_updated_ms)}",
        )
        for a in found
    ]
    return _table(("side", "price", "absorbed", "refills", "means", "seen"), rows) if rows else NONE_FOUND


def flash_crashes(found: Sequence[FlashCrash], instrument: Instrument) -> list[str]:
    """Write the seconds in which a side collapsed."""
    rows = [
        (
            c.side,
            f"{_clock(c.from_ms)} … {_clock(c.until_ms)}",
            f"{c.depth_loss_pct:.1f} %",
            _number(c.spread_ratio, 1),
            _number(c.cancelled_pct, 1),
            c.severity or "unknown",
        )
        for c in found
    ]
    head = ("side", "second", "depth lost", "spread × mean", "cancelled %", "severity")
    return _table(head, rows) if rows else NONE_FOUND


def icebergs(found: Sequence[Iceberg], instrument: Instrument) -> list[str]:
    """Write the levels that hide more than they show."""
    rows = [
        (
            i.side,
            _price(i.price, instrument),
            str(i.refill_count),
            _quantity(i.executed_volume, instrument),
            _quantity(i.largest_shown, instrument),
            f"{i.confidence:.3f}",
            i.severity,
        )
        for i in found
    ]
    head = ("side", "price", "refills", "traded", "most shown", "confidence", "severity")
    return _table(head, rows) if rows else NONE_FOUND


def quote_stuffing(found: QuoteStuffing | None, instrument: Instrument) -> list[str]:
    """Write quote stuffing."""
    if found is None:
        return NONE_FOUND
    return [
        f"{found.updates_per_s:,.0f} levels changed a second while {found.fill_pct:.1f} % filled: severity "
        f"{found.severity}."
    ]


def health(state: MicrostructureHealth, instrument: Instrument) -> list[str]:
    """Write the score and its components."""
    known = f"of {100 * state.known_weight:.0f} % of the weight"
    if state.overall is None:
        lines = [f"No score: components {known} are known."]
    else:
        lines = [f"**{state.overall:.0f} of 100, {state.level}** {known}: {state.recommended_action}."]
    rows = [
        (name.replace("_", " "), _number(getattr(state, name), 0), f"{100 * weight:.0f} %")
        for name, weight in WEIGHTS.items()
    ]
    return [*lines, "", *_table(("component", "score", "weight"), rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _number(value: float | None, decimals: int) -> str:
    return "unknown" if value is None else f"{value:,.{decimals}f}"


def _price(value: float | None, instrument: Instrument) -> str:
    return _number(value, instrument.price_decimals)


def _quantity(value: float | None, instrument: Instrument) -> str:
    return "unknown" if value is None else f"{value:,.{instrument.quantity_decimals}f} {instrument.base}"


def _clock(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / SECOND_MS, UTC):%H:%M:%S}"
