"""A plan of faults: which frames are dropped, doubled or mangled, decided by hash, so that a seed is a history."""

import hashlib
from typing import Any

import msgspec


class FaultPlan(msgspec.Struct, forbid_unknown_fields=True):
    """Probabilities of each fault; all are zero unless asked for.

    Attributes:
        seed: The same seed and frames have the same faults.
        drop: A frame is not sent.
        duplicate: A frame is sent twice.
        malformed: A frame is cut in the middle.
        disconnect: The socket is closed after a frame.
        rest_refused: A REST call is answered with 503.
    """

    seed: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    malformed: float = 0.0
    disconnect: float = 0.0
    rest_refused: float = 0.0

    def strikes(self, fault: str, number: int) -> bool:
        """Return whether a fault strikes the frame or call of this number."""
        probability = getattr(self, fault)
        if probability <= 0.0:
            return False
        digest = hashlib.blake2b(f"{self.seed}|{fault}|{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < probability


def fault_plan(body: Any) -> FaultPlan:
    """Return the plan of a JSON object; raises `msgspec.ValidationError`."""
    return msgspec.convert(body, FaultPlan)
