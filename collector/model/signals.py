"""Signals by name and by number."""

from __future__ import annotations

import signal

NAMES = {int(known): known.name for known in signal.Signals}
_REAL_TIME = range(signal.SIGRTMAX - signal.SIGRTMIN + 1)
_NUMBERS = (
    {known.name: int(known) for known in signal.Signals}
    | {f"SIGRTMIN+{offset}": signal.SIGRTMIN + offset for offset in _REAL_TIME}
    | {f"SIGRTMAX-{offset}": signal.SIGRTMAX - offset for offset in _REAL_TIME}
)


class UnknownSignalError(ValueError):
    """A signal that does not exist: *text* is what was given for it."""

    def __init__(self, text: str) -> None:
        super().__init__(f"there is no signal {text!r}")
        self.text = text

    @property
    def hint(self) -> str | None:
        """The one that was probably meant, as the given one is written: with or without ``SIG``."""
        from collector.model.nearest import nearest  # noqa: PLC0415 - `collector notify` starts without difflib

        word = self.text.upper()
        known = [name if word.startswith("SIG") else name.removeprefix("SIG") for name in NAMES.values()]
        meant = nearest(word, known)
        return f"did you mean {meant}?" if meant else None


def signal_number(text: str) -> int:
    """
    Return the number of a signal given as ``SIGSEGV``, ``SEGV``, ``11`` or ``RTMIN+6``.

    Raises:
        UnknownSignalError: If there is no such signal.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 2 and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    number = _NUMBERS.get(text if text.startswith("SIG") else f"SIG{text}")
    if number is None:
        raise UnknownSignalError(text)
    return number


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11, ``SIGRTMIN+6`` for 40, and ``signal 99`` for what is not a signal."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return NAMES.get(number, f"signal {number}")
