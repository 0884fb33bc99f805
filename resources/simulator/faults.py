"""A plan of faults: which frames and calls go wrong, decided by hash, so that a seed is a history."""

import hashlib
from typing import Any, Final

import msgspec

FRAME_FAULTS: Final = ("drop", "duplicate", "reorder", "malformed", "half_open", "disconnect", "shutdown")
REST_FAULTS: Final = (
    "rest_429",
    "rest_418",
    "rest_403",
    "rest_5xx",
    "rest_html",
    "rest_truncated",
    "rest_refused",
    "rest_hang",
)


class FaultPlan(msgspec.Struct, forbid_unknown_fields=True):
    """Probabilities of each fault, by frame or by call; all are zero unless asked for.

    Attributes:
        seed: The same seed and frames have the same faults.
        drop: A frame is not sent.
        duplicate: A frame is sent twice.
        reorder: A frame is sent after the one that follows it.
        malformed: A frame is cut in the middle.
        half_open: From this frame on the socket stays open, sends nothing and answers no ping.
        disconnect: The socket is closed after a frame.
        shutdown: The exchange announces that it shuts down, and cuts the connection `shutdown_lead_s` later.
        rest_429: A call is answered with 429.
        rest_418: A call is answered with 418.
        rest_403: A call is answered with 403 and a page, as a firewall does.
        rest_5xx: A call is answered with 500, 502, 503 or 504.
        rest_html: A call is answered with 200 and a page.
        rest_truncated: An answer is cut in the middle.
        rest_refused: The connection is cut without an answer.
        rest_hang: There is no answer until the caller gives up.
        stalled: Streams that send nothing while others go on.
        storm_s: Each connection is cut after at most this many seconds; 0: none is.
        shutdown_lead_s: Seconds from the announcement to the cut.
        retry_after_s: What 429 and 418 ask for; null leaves the header out.
    """

    seed: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    malformed: float = 0.0
    half_open: float = 0.0
    disconnect: float = 0.0
    shutdown: float = 0.0
    rest_429: float = 0.0
    rest_418: float = 0.0
    rest_403: float = 0.0
    rest_5xx: float = 0.0
    rest_html: float = 0.0
    rest_truncated: float = 0.0
    rest_refused: float = 0.0
    rest_hang: float = 0.0
    stalled: tuple[str, ...] = ()
    storm_s: float = 0.0
    shutdown_lead_s: float = 1.0
    retry_after_s: int | None = 1

    def strikes(self, fault: str, number: int) -> bool:
        """Return whether a fault strikes the frame or call of this number."""
        probability = getattr(self, fault)
        return probability > 0.0 and self.chance(fault, number) < probability

    def chance(self, fault: str, number: int) -> float:
        """Return the number in `[0, 1)` that decides."""
        digest = hashlib.blake2b(f"{self.seed}|{fault}|{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def of_frame(self, number: int) -> set[str]:
        """Return the faults that strike a frame."""
        return {fault for fault in FRAME_FAULTS if self.strikes(fault, number)}

    def of_call(self, number: int) -> str | None:
        """Return the first fault that strikes a call."""
        return next((fault for fault in REST_FAULTS if self.strikes(fault, number)), None)

    @property
    def spares_frames(self) -> bool:
        """Whether no frame can be struck."""
        return not self.stalled and not any(getattr(self, fault) for fault in FRAME_FAULTS)


def fault_plan(body: Any) -> FaultPlan:
    """Return the plan of a JSON object; raises `msgspec.ValidationError`."""
    return msgspec.convert(body, FaultPlan)
