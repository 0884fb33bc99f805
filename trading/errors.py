"""Errors that a user can act on.

Every refusal of the project is a subclass of `TradingError`: it says what is wrong and why in `message`, and what to
do next in `hint`. Errors of one subject live beside that subject; this module holds only their common root.
"""


class TradingError(Exception):
    """Something a user can act on.

    Args:
        message: What is wrong and why, one sentence.
        hint: What to do next; empty when the message says it all.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message followed by the hint."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def known(self) -> dict[str, object]:
        """Return what the error knows beside its words, such as how many trades there were."""
        return {name: value for name, value in vars(self).items() if name not in ("message", "hint")}

    def told(self) -> dict[str, object]:
        """Return the error as it is written for machines."""
        return {"error": f"{type(self).__name__}: {self.message}", "hint": self.hint, **self.known}
