"""Signals by name and by number."""

from __future__ import annotations

import signal

NAMES = {int(known): known.name for known in signal.Signals}


def signal_number(text: str) -> int:
    """
    Return the number of a signal given as ``SIGSEGV``, ``SEGV`` or ``11``.

    Raises:
        ValueError: If there is no such signal.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 2 and int(text) in NAMES:
        return int(text)
    known = signal.Signals.__members__.get(text if text.startswith("SIG") else f"SIG{text}")
    if known is None:
        raise ValueError(f"there is no signal {text!r}")
    return int(known)


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11, ``SIGRTMIN+6`` for 40, and ``signal 99`` for what is not a signal."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return NAMES.get(number, f"signal {number}")
